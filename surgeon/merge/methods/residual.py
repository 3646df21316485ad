"""The instruction residual: what tuning made of a base, added to another model of that base with all of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

from surgeon.merge.methods.task_arithmetic import task_arithmetic
from surgeon.merge.methods.task_arithmetic import weighted_sum as weighted_sum  # the same factors

ROWWISE = True
LINEAR = True  # holds where `base` has no change of its own
ONTO_WHOLE = True  # `base` is the model given as --onto, with all of its own change


def residual(base: Tensor, deltas: list[Tensor], weights: list[float], *, scale: float = 1.0) -> Tensor:
    """theta_onto + scale x sum of weight x (theta_tuned - theta_base), elementwise in float64.

    `base` is theta_onto; the arithmetic is that of task_arithmetic. The papers add one residual at weight 1 (Chat
    Vector also at other ratios).
    Source: Jindal et al. 2024, Balancing Continuous Pre-Training and Instruction Fine-Tuning (arXiv 2410.10739), equations 1-2; Huang et al. 2024, Chat Vector (arXiv 2310.04799), section 3.
    """  # noqa: E501 - the source is one line
    return task_arithmetic(base, deltas, weights, scale=scale)
