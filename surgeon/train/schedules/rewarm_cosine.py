"""Re-warming a converged model: up to the peak again, then a cosine down."""

from __future__ import annotations

from surgeon.train.decay import decayed
from surgeon.train.phases import check_fall, progress
from surgeon.train.warmup import warmup_steps


def rewarm_cosine(step: int, total: int, *, warmup: float = 0.01, min_ratio: float = 0.1) -> float:
    """Linear re-warm-up to the peak, then half a cosine down to exactly `min_ratio` of it at the last step.

    eta(t) = eta_max t / T_w, then eta_min + (eta_max - eta_min)/2 (1 + cos(pi (t - T_w) / (T - T_w))).
    warmup: share of the steps (below 1) or number of steps; of little influence up to 2 %, and 0 begins at the peak.
    The peak is --lr: a higher one adapts more and forgets more. Result: factor of the peak learning rate, in [0, 1].
    Source: Gupta et al. 2023 (2308.04014); Ibrahim et al. 2024 (2403.08763)
    """
    rise = warmup_steps(warmup, total)
    check_fall(total, rise)
    level = decayed(progress(step, rise, total), 1.0, min_ratio, "cosine")
    return step / rise if step < rise else level
