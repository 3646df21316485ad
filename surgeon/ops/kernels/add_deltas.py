"""A tensor moved by a weighted sum of what others differ from it."""

from __future__ import annotations

from torch import Tensor

COMPUTE = "float64"
ROWWISE = True
CHANGES = 0


def add_deltas(inputs: list[Tensor], *, weights: list[float]) -> Tensor:
    """W + sum_i w_i (M_i - W) in float64, of inputs [W, M_1, M_2, ...] of one shape; in the order given."""
    base, *others = inputs
    found = base.clone()
    for weight, other in zip(weights, others, strict=True):
        found += weight * (other - base)
    return found
