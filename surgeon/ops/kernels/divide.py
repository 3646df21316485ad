"""A tensor divided by a number: what makes a mean of a sum."""

from __future__ import annotations

from torch import Tensor

COMPUTE = "float64"
ROWWISE = True


def divide(inputs: list[Tensor], *, by: float) -> Tensor:
    """inputs[0] / by, elementwise, in float64.

    The sum of n stored values is exact, and so the quotient is the mean rounded once; a sum of n-ths is off by some
    last bits of float64, which decide what the stored type rounds to wherever the mean lies halfway.
    """
    return inputs[0] / by
