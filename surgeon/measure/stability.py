"""What a training forgets on the way: how far the loss of a corpus rises above its start, and whether it comes back.

Source: Guo et al. 2024 (2406.14833), the stability gap: a loss that first rises and then recovers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from surgeon.errors import SurgeonError

UNITS = {"bits_per_byte": "bits per byte", "nats_per_token": "nats per token"}


@dataclass(frozen=True)
class Stability:
    """What one corpus lost, in the unit of its losses; steps count from the start of the training.

    start, end: its first and last loss. forgetting: end - start, below zero where it was learned. depth: the highest
    loss minus the start, 0 where it was never above. dip_step: where it was highest first. recovered_at: the first
    step behind the dip with a loss at or below the start. Both are None where there was no dip; recovered_at alone is
    None where the corpus did not come back.
    """

    start: float
    end: float
    forgetting: float
    depth: float
    dip_step: int | None
    recovered_at: int | None

    @property
    def got_worse(self) -> bool:
        """Whether the loss was ever above its start."""
        return self.dip_step is not None

    @property
    def recovered(self) -> bool:
        return self.recovered_at is not None


def stability(curve: Sequence[tuple[int, float]]) -> Stability:
    """Measure a curve of (step, loss), float64.

    It sees what was evaluated: a dip between two evaluations is missed, so `depth` is a lower bound of the true one,
    and `recovered_at` is as coarse as the steps between evaluations. Where the paper reads a gap off a figure of task
    accuracy, this is of losses. Raises SurgeonError on a curve that is empty, is not in the order of its steps, or
    holds what is not a number.
    """
    steps = [step for step, _ in curve]
    if not curve:
        raise SurgeonError("a curve without a point has no start", "stability", "evaluate before the first step")
    if any(a >= b for a, b in itertools.pairwise(steps)):
        raise SurgeonError(
            f"the steps of the curve do not rise: {steps}", "stability", "give each step once, in order"
        )
    unknown = [step for step, loss in curve if math.isnan(loss)]
    if unknown:
        raise SurgeonError("the loss is not a number", f"step {unknown[0]}", "leave the corpus out")
    start, end = float(curve[0][1]), float(curve[-1][1])
    dip, highest = max(curve, key=lambda point: point[1])  # the first of equals
    if highest <= start:
        return Stability(start, end, end - start, 0.0, None, None)
    back = next((step for step, loss in curve if step > dip and loss <= start), None)
    return Stability(start, end, end - start, highest - start, dip, back)


def of_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stability of every corpus that was evaluated at more than one step, by the order of first appearance.

    evaluations: {step, name, bits_per_byte, nats_per_token}, as `cpt` records them. In bits per byte where every
    evaluation has them, else in nats a token ("unit"). A corpus with a loss that is absent or not a number has only
    its name and the unit: nothing can be said of it. Nor of one that was not evaluated before the first step, as where
    a run that goes on was given it: what it lost before is not known, and "since" says from which step on it is.
    """
    unit = "bits_per_byte" if all(e.get("bits_per_byte") is not None for e in evaluations) else "nats_per_token"
    corpora: dict[str, list[tuple[int, float]]] = {}
    for point in evaluations:
        loss = point.get(unit)
        corpora.setdefault(point["name"], []).append((point["step"], math.nan if loss is None else float(loss)))
    found: list[dict[str, Any]] = []
    for name, curve in corpora.items():
        if len(curve) < 2:
            continue
        known = not any(math.isnan(loss) for _, loss in curve)
        of = {"name": name, "unit": UNITS[unit]}
        if known and curve[0][0] > 0:
            found.append(of | {"since": curve[0][0]})
        else:
            found.append(of | (asdict(stability(curve)) if known else {}))
    return found


def of_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON of `cpt` says of it, from its "eval"."""
    return {"stability": of_evaluations(result["eval"])}


def forgetting(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """loss(t) - loss(0) at every step; 0 at the first."""
    return [(step, loss - curve[0][1]) for step, loss in curve]


def describe(found: Mapping[str, Any]) -> str:
    """One of `of_evaluations` in words."""
    if "since" in found:
        return f"not evaluated before step {found['since']}: what it lost since the start is not known"
    if "depth" not in found:
        return "a loss is not a number: nothing can be said"
    if found["dip_step"] is None:
        return "never above its start"
    back = found["recovered_at"]
    said = f"back at step {back}" if back is not None else "not recovered"
    return f"at worst +{found['depth']:.4f} {found['unit']}, at step {found['dip_step']}; {said}"
