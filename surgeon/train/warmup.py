"""The length of a warm-up, as schedules take it."""

from __future__ import annotations

from surgeon.train.phases import phase_steps


def warmup_steps(warmup: float, total: int) -> float:
    """Steps of a warm-up given as a share of `total` (below 1) or as a number of steps (from 1 on).

    A share is not rounded: the warm-up of 1 % of 50 steps is half a step long, and so over at the first one.
    """
    return phase_steps("warmup", warmup, total, "warm-up")
