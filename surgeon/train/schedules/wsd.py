"""Warm-up, stable, decay: a schedule whose stable part can be prolonged."""

from __future__ import annotations

from surgeon.train.decay import Shape, decayed
from surgeon.train.phases import check_fit, phase_steps, progress
from surgeon.train.warmup import nothing_else, warmup_steps

NOTE = nothing_else


def wsd(
    step: int, total: int, *, warmup: float = 0.01, decay: float = 0.2, min_ratio: float = 0.0, shape: Shape = "sqrt"
) -> float:
    """Linear warm-up, the peak, then over the last `decay` of the steps down to exactly `min_ratio` of it.

    warmup, decay: share of the steps (below 1) or number of steps. shape: of the decay over r in [0, 1]: sqrt is
    1 - sqrt(r), linear 1 - r, cosine (1 + cos(pi r)) / 2, exponential min_ratio^r. Up to the decay the total is not
    looked at where the warm-up is in steps; decay=0 leaves the end open for `surgeon cpt anneal`.
    Hu et al. decay exponentially over 10 % by a half-life; here every shape is given by where it ends.
    Result: factor of the peak learning rate, in [0, 1].
    Source: Hu et al. 2024 (2404.06395); Haegele et al. 2024 (2405.18392), the 1-sqrt decay over 20 %
    """
    rise, fall = warmup_steps(warmup, total), phase_steps("decay", decay, total)
    check_fit(total, warmup=rise, decay=fall)
    level = decayed(progress(step, total - fall, total), 1.0, min_ratio, shape)
    return step / rise if step < rise else level
