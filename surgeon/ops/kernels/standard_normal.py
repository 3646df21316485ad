"""Random numbers as torch.nn.Embedding starts with."""

from __future__ import annotations

import torch
from torch import Tensor

ROWWISE = False  # the random numbers are those of the whole tensor


def standard_normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Normal with mean 0 and variance 1; float64; Philox keyed by the seed.

    Source: as PEFT initialises lora_embedding_B, whose A is zero.
    """
    import numpy as np

    return torch.from_numpy(np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape))
