"""A schedule without an end: up, down to a constant rate for as long as there are data, and a short fall on demand."""

from __future__ import annotations

import math
from typing import Literal

from surgeon.errors import UsageError
from surgeon.train.decay import Shape, decayed
from surgeon.train.phases import check_fit, phase_steps, progress
from surgeon.train.warmup import nothing_else, warmup_steps

Cooldown = Literal["cosine", "inv_sqrt", "linear"]
TIMESCALE = 10.0  # of the inverse square root, as the authors' code has it

NOTE = nothing_else


def infinite(
    step: int, total: int, *, warmup: float = 0.05, cooldown: float = 0.1, anneal: float = 0.2,
    const_ratio: float = 0.1, min_ratio: float = 0.01, cooldown_shape: Cooldown = "cosine",
    shape: Shape = "exponential",
) -> float:  # fmt: skip
    """Linear warm-up to the peak, cooldown to `const_ratio` of it, constant, annealing to exactly `min_ratio`.

    Cooldown over x in [0, 1]: cosine eta_c + (eta_max - eta_c)/2 (1 + cos(pi x)), inv_sqrt
    eta_max + (eta_c - eta_max) h(x)/h(1) with h(x) = 1/sqrt(1 + 10 x) - 1, or linear.
    Annealing: eta_c (eta_min / eta_c)^x, which is eta_min at the last step.
    warmup, cooldown, anneal: lengths, each a share of the steps (below 1) or a number of steps; what they leave is
    constant. In steps and with anneal=0 the total is not looked at: a run may be prolonged, and annealed from any of
    its checkpoints (`surgeon cpt anneal`). A later stage begins in the constant phase with warmup=0, cooldown=0.
    Result: factor of the peak learning rate, in [0, 1].
    The defaults are those of the authors' code: to 5 %, 15 %, 80 %, 100 % of the steps at 1, 0.1 and 0.01 of the peak.
    Source: Singh et al. 2025 (2503.02844); Ibrahim et al. 2024 (2403.08763), section 7.4
    """
    rise, fall = warmup_steps(warmup, total), phase_steps("cooldown", cooldown, total)
    last = phase_steps("anneal", anneal, total)
    check_fit(total, warmup=rise, cooldown=fall, anneal=last)
    if not 0 < const_ratio <= 1:
        raise UsageError(f"{const_ratio:g} is no share of the peak", "--option const_ratio", "give one up to 1")
    # without an annealing there is no end to come to
    ending = decayed(progress(step, total - last, total), const_ratio, min_ratio, shape) if last else const_ratio
    if step < rise:
        return step / rise
    if step < rise + fall:
        return _cooled(progress(step, rise, rise + fall), const_ratio, cooldown_shape)
    return ending


def _cooled(done: float, level: float, shape: Cooldown) -> float:
    """The factor after the share `done` (below 1) of the cooldown from 1 to `level`."""
    if shape == "inv_sqrt":
        return 1.0 + (level - 1.0) * _h(done) / _h(1.0)
    return decayed(done, 1.0, level, shape)


def _h(x: float) -> float:
    return 1.0 / math.sqrt(1.0 + TIMESCALE * x) - 1.0
