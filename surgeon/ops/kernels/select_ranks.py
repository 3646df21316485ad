"""Some ranks of a factor of LoRA, or of two factors one behind the other."""

from __future__ import annotations

import torch
from torch import Tensor

COMPUTE = "stored"
ROWWISE = False


def select_ranks(inputs: list[Tensor], *, ranks: list[list[int]], axis: int, negate_last: bool = False) -> Tensor:
    """The ranks `ranks[i]` of inputs[i] along `axis` (0 of A, 1 of B), joined; their values unchanged.

    negate_last: those of the last input with the other sign, which takes its update out.
    """
    parts = [
        held.index_select(axis, torch.tensor(own, dtype=torch.long)) for held, own in zip(inputs, ranks, strict=True)
    ]
    if negate_last:
        parts[-1] = -parts[-1]
    return torch.cat(parts, dim=axis)
