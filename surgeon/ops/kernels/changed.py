"""What a tensor has become, beside what it was: for a change that is no sum, such as rows in the place of others."""

from __future__ import annotations

from torch import Tensor

COMPUTE = "float64"
ROWWISE = True
CHANGES = 0


def changed(inputs: list[Tensor]) -> Tensor:
    """inputs[1] as it is, of inputs [W before, W after] of one shape; the executor rounds it once."""
    return inputs[1]
