"""Warm-up, then a straight line down."""

from __future__ import annotations

from surgeon.train.warmup import warmup_steps


def linear(step: int, total: int, *, warmup: float = 0.01, min_ratio: float = 0.0) -> float:
    """Linear warm-up to the peak, then linear decay to `min_ratio` of it at the last step.

    warmup: share of the steps (below 1) or number of steps. Result: factor of the peak learning rate, in [0, 1].
    """
    rise = warmup_steps(warmup, total)
    if step < rise:
        return step / rise
    return 1.0 - (1.0 - min_ratio) * (step - rise) / max(total - rise, 1)
