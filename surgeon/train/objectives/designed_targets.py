"""Learning soft targets that a designer makes to serve another text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.train.batch import Batch
from surgeon.train.forward import Forward
from surgeon.train.hook import Hook, Run, undivided
from surgeon.train.matrices import matrix_of
from surgeon.train.outline import Outline
from surgeon.train.settings import CptSettings, Positive
from surgeon.train.strength import Strength
from surgeon.train.target_designer import Targets, feedback_of, read
from surgeon.train.value import last_blocks

Control = Literal["none", "uniform", "random"]
FLAG = "--objective designed_targets"


def CHECK(settings: CptSettings, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse options that do not go together."""
    control = options["control"]
    if options["most"] and (options["feedback"] is None) == (control == "none"):
        problem = "a designer needs feedback" if control == "none" else f"control={control} has no use for feedback"
        raise UsageError(problem, FLAG, "feedback=CORPUS is what the targets are to serve")
    if options["most"] and options["width"] % options["heads"]:
        raise UsageError(
            f"{options['heads']} heads do not share a width of {options['width']}", FLAG, "choose a multiple"
        )


def FITS(run: Run | Outline, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse candidates that the vocabulary does not have, and what the model has no place for."""
    if options["most"] == 0:
        return
    vocab = matrix_of(run.model.get_input_embeddings()).shape[0]
    if options["k"] > vocab or options["k"] < 2:
        raise UsageError(f"k={options['k']} of {vocab} tokens are no candidates", FLAG, f"k is 2 to {vocab}")
    if run.model.get_output_embeddings() is None:
        raise UsageError(f"{type(run.model).__name__} has no head to read", FLAG, "use --objective next_token")
    if options["control"] != "uniform":
        last_blocks(run, options["blocks"], FLAG)
        if options["feedback"] is not None:
            feedback_of(run, options["feedback"])


def designer(run: Run, options: Mapping[str, Any]) -> Targets | Hook:
    """What makes the targets of a run; nothing where none are asked for."""
    if options["most"] == 0:
        return Hook()
    FITS(run, options)
    if options["control"] == "uniform":
        return Targets(run, [], options)
    undivided(run, "a designer of targets")
    return Targets(run, last_blocks(run, options["blocks"], FLAG), options)


def REMEMBERS(options: Mapping[str, Any]) -> bool:  # noqa: N802 - a trait that depends on the options
    """Whether there is a designer to go on with."""
    return bool(options["most"])


MAKES, CORPORA, NEUTRAL = {"designer": designer}, ("feedback",), {"most": 0.0}
EXAMPLE = {"feedback": "", "layers": 1, "width": 16, "heads": 2}


def designed_targets(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], designer: Targets, *,
    feedback: str | None = None, control: Control = "none", k: Positive = 64,
    most: Annotated[float, Field(ge=0, le=1)] = 0.5, every: Positive = 8, blocks: Positive = 2, rows: Positive = 4,
    rate: Strength = 1e-4, layers: Positive = 6, width: Positive = 256, heads: Positive = 4,
) -> Tensor:  # fmt: skip
    """Cross-entropy to q = (1 - alpha) onehot + alpha r, where r is over the label and the k - 1 most likely tokens.

    A designer gives r and alpha (at most `most`) for every token. Before every `every`-th step it is moved, by Adam at
    `rate`, to raise V = g_down . g_pre: the gradient of the `feedback` corpus times that of this loss, in the trained
    tensors of the last `blocks` blocks. The learner sees feedback through q alone. Metrics: design_value, V for a
    g_down of norm 1. most=0 is next_token, to the byte.
    control: what a gain has to be compared with. uniform: r is uniform and alpha is half of `most`, where a designer
    starts too; no designer. random: a designer that serves random directions. Neither takes feedback.
    From the paper: k, most, every, blocks, six layers of width 256 and 4 heads, rate (its LoRA branch). Ours: what the
    designer reads and how it starts (surgeon.train.designer), `rows` of a step and of the feedback for a move, norms,
    alpha of the uniform control; of its alignments the inner product. No code of the authors was found.
    A sum over labels, in nats, arithmetic in float32; all logits of a micro-batch are held. A designer learns by
    deriving through the model twice, which torch's FSDP2 cannot, so in one process alone; `uniform` in any number.
    Source: 2601.22108, V-Pretraining
    """
    if most == 0:
        return forward.nats(batch, arguments)
    hidden, found = read(forward, batch, arguments, k)
    q = designer.of(hidden, batch, found).detach()
    return -(q * found.logs).sum()
