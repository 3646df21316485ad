"""The same values in the output's type."""

from __future__ import annotations

from torch import Tensor

COMPUTE = "float64"
ROWWISE = True


def convert(inputs: list[Tensor]) -> Tensor:
    """inputs[0] as it is; the executor rounds it once to the output's type."""
    return inputs[0]
