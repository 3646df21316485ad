"""Warm-up, then a straight line down."""

from __future__ import annotations

from surgeon.train.decay import decayed
from surgeon.train.phases import check_fall, progress
from surgeon.train.warmup import warmup_steps


def linear(step: int, total: int, *, warmup: float = 0.01, min_ratio: float = 0.0) -> float:
    """Linear warm-up to the peak, then linear decay to exactly `min_ratio` of it at the last step.

    warmup: share of the steps (below 1) or number of steps. Result: factor of the peak learning rate, in [0, 1].
    Source: Bergsma et al. 2025 (2502.15938), linear decay to zero; Goyal et al. 2017 (1706.02677), the warm-up
    """
    rise = warmup_steps(warmup, total)
    check_fall(total, rise)
    level = decayed(progress(step, rise, total), 1.0, min_ratio, "linear")
    return step / rise if step < rise else level
