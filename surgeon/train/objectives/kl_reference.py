"""Learning new text, and staying near a teacher on other text alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from surgeon.errors import UsageError
from surgeon.train.batch import Batch
from surgeon.train.distillation import Divergence, distilled
from surgeon.train.forward import Forward
from surgeon.train.hook import Run
from surgeon.train.outline import Outline
from surgeon.train.settings import CptSettings
from surgeon.train.strength import Strength, Temperature
from surgeon.train.teacher import Teacher, of_run


def on_reference(run: Run, options: Mapping[str, Any]) -> Teacher:
    """The teacher of a run that has text to compare on."""
    FITS(run, options)
    return of_run(run, options)


def FITS(run: Run | Outline, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse a run whose replay has no share."""
    if not run.replays:
        raise _no_reference()


def CHECK(settings: CptSettings, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse a run without replay."""
    if not settings.may_replay:
        raise _no_reference()


def STILL(settings: CptSettings, options: Mapping[str, Any]) -> bool:  # noqa: N802 - a trait that depends on the run
    """Whether replay has no gradient at the first step: its labels are not learned, and a model that is its own
    teacher stands where it is to be held."""
    return not options["learn_replay"] and (settings.teacher is None or not options["weight"])


def _no_reference() -> UsageError:
    return UsageError(
        "kl_reference compares on replayed text, and there is none",
        "--objective kl_reference",
        "add --replay CORPUS: what the model knows, or any other text",
    )


MAKES, KEEPS, ANY_TEACHER = {"teacher": on_reference}, ("anchors",), True
NEUTRAL = {"weight": 0.0}


def kl_reference(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], teacher: Teacher, *,
    weight: Strength = 1.0, temperature: Temperature = 2.0, learn_replay: bool = True,
) -> Tensor:  # fmt: skip
    """Cross-entropy, plus `weight` T^2 KL(teacher || student) at temperature T on the tokens of --replay corpora.

    The replayed text need not be what the model was trained on: any text does to compare on. learn_replay: whether
    its labels are learned too, which is ours; without, as in the papers, it only holds the model. A micro-batch
    without replay runs no teacher. A sum, in nats, arithmetic in float32; the loop divides by all labels of a step,
    those of replay too.
    weight, temperature: 1 and 2 as in the authors' code. Weight 0 is next_token, to the byte (if replay is learned).
    Source: Zheng et al. 2023 (2303.06628), ZSCL; with the model's own text MoL (2505.12043)
    """
    if weight == 0 and learn_replay:
        return forward.nats(batch, arguments)
    replay = batch.replay
    if replay is None:
        raise ValueError("this batch does not know what is replay")
    learned = None if learn_replay else ~replay
    return distilled(
        forward, teacher, batch, arguments, Divergence(weight, temperature, learned=learned, compared=replay)
    )
