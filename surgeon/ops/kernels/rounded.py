"""A computed value as a checkpoint once stored it."""

from __future__ import annotations

from torch import Tensor

from surgeon.checkpoint.reader import TORCH
from surgeon.checkpoint.rounding import round_once

COMPUTE = "float64"
ROWWISE = True


def rounded(inputs: list[Tensor], *, dtype: str) -> Tensor:
    """inputs[0] rounded once to the stored type `dtype` (a safetensors code) and widened back to float64.

    The value of a row at initialisation is what its first checkpoint held, not the unrounded formula: without this
    the delta of a row that was never trained would not be zero.
    """
    return round_once(inputs[0], TORCH[dtype]).to(inputs[0].dtype)
