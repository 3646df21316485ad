"""Every element the same value."""

from __future__ import annotations

import torch
from torch import Tensor

ROWWISE = True


def constant(shape: tuple[int, ...], *, value: float) -> Tensor:
    """A tensor of `shape` filled with `value`, in float64."""
    return torch.full(shape, value, dtype=torch.float64)
