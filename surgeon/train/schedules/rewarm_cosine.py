"""Re-warming a converged model: up to the peak again, then a cosine down."""

from __future__ import annotations

import math

from surgeon.train.warmup import warmup_steps


def rewarm_cosine(step: int, total: int, *, warmup: float = 0.01, min_ratio: float = 0.1) -> float:
    """Linear re-warm-up to the peak, then half a cosine down to `min_ratio` of it at the last step.

    eta(t) = eta_max t / T_w, then eta_min + (eta_max - eta_min)/2 (1 + cos(pi (t - T_w) / (T - T_w))).
    warmup: share of the steps (below 1) or number of steps. Result: factor of the peak learning rate, in [0, 1].
    Source: Gupta et al. 2023 (2308.04014); Ibrahim et al. 2024 (2403.08763)
    """
    rise = warmup_steps(warmup, total)
    if step < rise:
        return step / rise
    done = (step - rise) / max(total - rise, 1)
    return min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + math.cos(math.pi * done))
