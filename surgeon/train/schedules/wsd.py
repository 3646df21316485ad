"""Warm-up, stable, decay: a schedule whose stable part can be prolonged."""

from __future__ import annotations

import math
from typing import Literal

from surgeon.errors import UsageError
from surgeon.train.warmup import warmup_steps


def wsd(
    step: int, total: int, *, warmup: float = 0.01, decay: float = 0.2, min_ratio: float = 0.0,
    shape: Literal["sqrt", "linear", "cosine"] = "sqrt",
) -> float:  # fmt: skip
    """Linear warm-up, the peak, then over the last `decay` of the steps down to `min_ratio` of it.

    shape: of the decay over r in [0, 1]: 1 - sqrt(r), 1 - r, or (1 + cos(pi r)) / 2.
    Result: factor of the peak learning rate, in [0, 1].
    Source: Hu et al. 2024 (2404.06395); Haegele et al. 2024 (2405.18392), the 1-sqrt decay
    """
    rise, fall = warmup_steps(warmup, total), decay * total
    if not 0 <= decay <= 1 or rise + fall > total:
        raise UsageError(
            f"warm-up ({rise} steps) and decay ({fall:g} steps) are longer than the run of {total} steps",
            "--option decay",
            "make one of them shorter",
        )
    if step < rise:
        return step / rise
    done = (step - (total - fall)) / fall if fall else 0.0
    if done <= 0:
        return 1.0
    level = {"sqrt": 1 - math.sqrt(done), "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[shape]
    return min_ratio + (1.0 - min_ratio) * level
