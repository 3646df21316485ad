"""All-zero rows."""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.vocab.tokens import NewTokens

HULL = False
BATCH_INDEPENDENT = True


def zero(new: NewTokens, embed_VD: Tensor) -> Tensor:
    """Zeros. In an output matrix such a row wins wherever all old logits are negative: meant for ablations."""
    return torch.zeros(len(new), *embed_VD.shape[1:], dtype=torch.float64)
