"""The length of a warm-up, as schedules take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgeon.train.phases import phase_steps

if TYPE_CHECKING:
    from surgeon.train.hook import Run


def warmup_steps(warmup: float, total: int) -> float:
    """Steps of a warm-up given as a share of `total` (below 1) or as a number of steps (from 1 on).

    A share is not rounded: the warm-up of 1 % of 50 steps is half a step long, and so over at the first one.
    """
    return phase_steps("warmup", warmup, total, "warm-up")


def nothing_else(run: Run, options: Mapping[str, Any]) -> str | None:
    """What is said of a schedule without a fall that is all warm-up; one that is to fall refuses it (check_fall)."""
    if warmup_steps(options["warmup"], run.total) < run.total:
        return None
    return f"the warm-up is as long as the run: the rate is below --lr until the last of its {run.total} steps"
