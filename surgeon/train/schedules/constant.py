"""A learning rate that stays where it is."""

from __future__ import annotations

from surgeon.train.warmup import nothing_else, warmup_steps

NOTE = nothing_else


def constant(step: int, total: int, *, warmup: float = 0.0) -> float:
    """The full learning rate at every step, after a linear warm-up if one is asked for.

    warmup: share of the steps (below 1) or number of steps. Result: factor of the peak learning rate, in [0, 1].
    Source: Goyal et al. 2017 (1706.02677), the warm-up
    """
    rise = warmup_steps(warmup, total)
    return step / rise if step < rise else 1.0
