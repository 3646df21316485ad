"""The difference of two tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # weighted sums are planned, and computed, without torch
    from torch import Tensor

COMPUTE = "float64"
ROWWISE = True


def subtract(inputs: list[Tensor]) -> Tensor:
    """inputs[0] - inputs[1], elementwise on one shape, in float64 (exact for bfloat16 and most of float32)."""
    tuned, reference = inputs
    return tuned - reference
