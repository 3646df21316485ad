"""surgeon merge sequence: models that one stream of tasks left behind, merged in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.plan import plan_merge
from surgeon.merge.settings import MergeSettings
from surgeon.ops.plan import Plan
from surgeon.progress import SILENT, Progress

Policy = Literal["ema", "zero-shot", "fine-tuned"]
# policy -> what the next task of the stream is trained from
NEXT: dict[str, str] = {"ema": "this merge", "zero-shot": "the first model", "fine-tuned": "this merge"}


def coefficients(policy: Policy, weight: float, count: int) -> list[float]:
    """The weight of each of `count` task vectors theta_i - theta_0, in the order of the stream.

    ema and zero-shot: the running merge m_i = (1 - w) m_{i-1} + w theta_i, m_0 = theta_0, unrolled: w (1 - w)^{t - i}
    for theta_i and (1 - w)^t for theta_0; they differ in what each theta_i was trained from (the merge so far; always
    theta_0). fine-tuned: (1 - w) theta_0 + w theta_t, the last model alone with the first.
    Source: Roth et al. 2024, A Practitioner's Guide to Continual Multimodal Pretraining (arXiv 2408.14471), section 4;
    their code interpolates with w = 1/2 and rounds after each step, here there is one rounding at the end.
    """
    if policy == "fine-tuned":
        return [0.0] * (count - 1) + [weight]
    return [weight * (1 - weight) ** (count - i) for i in range(1, count + 1)]


def plan_sequence(
    models: list[str], out: Path, policy: Policy | None, weight: float | None, progress: Progress = SILENT, **more: Any
) -> Plan:
    """The merge of theta_0 (models[0]) and the models that followed, oldest first; they may have been operated on
    since. w = 0 gives theta_0's bytes, w = 1 the last model's. more: settings that every merge takes.

    Raises UsageError on words that do not fit, SurgeonError on models that do not meet.
    """
    policy, weight, factors = factors_of(models, policy, weight)
    add = [f"{model}={factor!r}" for model, factor in zip(models[1:], factors, strict=True)]
    try:
        plan = plan_merge(MergeSettings(base=models[0], out=out, add=add, special_tokens="merged", **more), progress)
    except SurgeonError as error:
        raise _told(error, add) from error
    first = 1 - weight if policy == "fine-tuned" else (1 - weight) ** (len(models) - 1)
    told = {"policy": policy, "weight": weight, "coefficients": [first, *factors], "train_next_from": NEXT[policy]}
    merge = dict(plan.lineage.merge or {}) | {"sequence": told}
    return replace(plan, lineage=plan.lineage.model_copy(update={"merge": merge}))


def _told(error: SurgeonError, add: Sequence[str]) -> SurgeonError:
    """A refusal whose hint names a flag that merge-task-vectors alone has, with the words of the same merge there."""
    if not any(flag in error.hint for flag in ("--onto", "--special-tokens", "--new-blocks")):
        return error
    same = " ".join(f"--add {one}" for one in add)
    return type(error)(error.problem, error.where, f"{error.hint} (of merge-task-vectors, where this merge is {same})")


def factors_of(
    models: Sequence[str], policy: Policy | None, weight: float | None
) -> tuple[Policy, float, list[float]]:
    """(policy, weight, the weights of all models but the first). Raises UsageError on words that do not fit."""
    if policy is None or weight is None:
        missing = "--policy" if policy is None else "--weight"
        raise UsageError(
            f"sequence needs {missing}", missing, "such as --policy ema --weight 0.5 (ema, zero-shot, fine-tuned)"
        )
    if not 0 <= weight <= 1:
        raise UsageError(f"weight {weight} is not in [0, 1]", "--weight", "0 is the first model, 1 the last one")
    if len(models) < 2:
        raise UsageError(
            "a sequence has a first model and at least one that followed", "MODEL...", "give them in order"
        )
    return policy, weight, coefficients(policy, weight, len(models) - 1)
