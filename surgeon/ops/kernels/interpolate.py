"""A point on the line between two tensors."""

from __future__ import annotations

from torch import Tensor

COMPUTE = "float64"
ROWWISE = True


def interpolate(inputs: list[Tensor], *, t: float) -> Tensor:
    """(1 - t) * inputs[0] + t * inputs[1], elementwise on one shape, in float64; t = 0 and t = 1 give the ends."""
    first, second = inputs
    return (1 - t) * first + t * second
