"""Random rows around zero."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.vocab.tokens import NewTokens

HULL = False
BATCH_INDEPENDENT = True


def random(new: NewTokens, embed_VD: Tensor, seed: int, *, sd: float = 0.02) -> Tensor:
    """Independent N(0, sd) in every element, float64; each token draws from a stream of its own."""
    if not sd > 0:
        raise UsageError(f"sd must be above zero, got {sd}", "--option sd", "for example --option sd=0.02")
    width = embed_VD.shape[1]
    draws = [np.random.Generator(np.random.Philox(s)).standard_normal(width) for s in new.seeds(seed)]
    return torch.from_numpy(np.stack(draws)) * sd
