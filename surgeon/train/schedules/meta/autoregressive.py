"""Each stage's peak is where one schedule over all stages so far would be."""

from __future__ import annotations

import math
from typing import Literal

from surgeon.errors import UsageError
from surgeon.train.decay import decayed
from surgeon.train.phases import check_fall, progress
from surgeon.train.warmup import warmup_steps


def autoregressive(
    step: int, total: int, *, stage: int = 0, warmup: float = 0.1, min_ratio: float = 0.001,
    shape: Literal["cosine", "rsqrt"] = "cosine",
) -> float:  # fmt: skip
    """Warm-up and decay of stage `stage` (from 0) of a sequence; its peak falls from stage to stage.

    peak_t = eta_min + v_t (eta_max - eta_min). cosine: v_t = (1 + cos(pi t / (t + 1))) / 2, that is 1, 1/2, 1/4,
    0.146, ..., and half a cosine from the peak to eta_min. rsqrt: v_t = sqrt((t + 1) W / (t S + W)) for stages of S
    steps with a warm-up of W, and eta_min + sqrt(W / n) (peak_t - eta_min) at step n of the stage.
    warmup: share of the steps (below 1) or number of steps. Result: factor of the first stage's peak, in [0, 1].
    A public copy of the authors' code puts t (S - W) + 1 for the cosine's t, one step later than a peak, and can let
    rsqrt fall linearly to 0 at the end of a stage; neither is done here, so v_0 = 1 is no case of its own.
    Source: Roth et al. 2024 (2408.14471), "autoregressive" meta learning rate
    """
    if stage < 0:
        raise UsageError(f"there is no stage {stage}", "--option stage", "the first one is 0")
    rise = warmup_steps(warmup, total)
    check_fall(total, rise)
    if shape == "rsqrt" and rise == 0:
        raise UsageError("rsqrt falls by the length of its warm-up", "--option warmup", "give one, such as 0.1")
    if shape == "cosine":
        level = 0.5 * (1 + math.cos(math.pi * stage / (stage + 1)))
    else:
        level = math.sqrt((stage + 1) * rise / (stage * total + rise))
    peak = decayed(1 - level, 1.0, min_ratio, "linear")
    if step < rise:
        return peak * (step / rise)
    if shape == "cosine":
        return decayed(progress(step, rise, total), peak, min_ratio, "cosine")
    return min_ratio + math.sqrt(rise / step) * (peak - min_ratio)
