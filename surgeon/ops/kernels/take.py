"""Some rows of a computed matrix."""

from __future__ import annotations

import torch
from torch import Tensor

COMPUTE = "stored"  # only the rows that are taken are looked at
ROWWISE = False


def take(inputs: list[Tensor], *, runs: list[list[int]]) -> Tensor:
    """Rows `runs` = [[start, stop], ...] of inputs[0], one after the other."""
    return torch.cat([inputs[0][start:stop] for start, stop in runs])
