"""What a run of an encoder is not: everything that reads a text from left to right is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.errors import UsageError
from surgeon.registry import Method
from surgeon.train.settings import CptSettings
from surgeon.train.trainable import ROLE

if TYPE_CHECKING:
    from surgeon.train.corpora import Data

Chosen = dict[str, list[tuple[Method, dict[str, Any]]]]


def check_encoder(settings: CptSettings, chosen: Chosen, encoder: bool) -> None:
    """Refuse an objective that is not of the model's kind (its module says FOR_ENCODERS), and on an encoder what
    needs a causal model: evaluation, probes of other methods, roles. Raises UsageError."""
    objective = chosen["objective"][0][0]
    if objective.trait("FOR_ENCODERS", False) != encoder:
        kind, other = ("an encoder", "masked_lm") if encoder else ("a decoder", "next_token")
        raise UsageError(
            f"the model is {kind}, and {objective.name} is no objective for one",
            f"--objective {objective.name}",
            f"train it with --objective {other}",
        )
    if not encoder:
        return
    if settings.eval:
        raise UsageError(
            "an encoder gives no probability of a text, so there is nothing to evaluate", "--eval", "leave it out"
        )
    reading = [
        m for kind, held in chosen.items() if kind != "objective" for m, _ in held if m.trait("CORPORA", ())
    ]  # fmt: skip
    if reading:
        raise UsageError(
            f"{reading[0].name} reads its corpus as a causal model does",
            "--regularize" if reading[0].kind == "regularizer" else f"--{reading[0].kind}",
            "leave it out",
        )
    if settings.train.startswith(ROLE):
        raise UsageError(
            "the roles of an encoder's tensors are not known",
            f"--train {settings.train}",
            "name them by an expression",
        )


def check_encoder_data(settings: CptSettings, data: Data) -> None:
    """Refuse instruction records of which only the answers would be learned: masks lie anywhere in a document."""
    answers = next((s for s in data.sources if s.packed.tokens.instruct), None)
    if answers is not None and settings.loss_on == "response":
        raise UsageError(
            f"the corpus {answers.corpus.name!r} holds instruction records, and masks lie anywhere in them",
            "--loss-on response",
            "learn all of them: --loss-on all",
        )
