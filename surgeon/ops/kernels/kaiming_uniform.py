"""Random numbers as torch.nn.Linear starts with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROWWISE = False  # the random numbers are those of the whole tensor


def kaiming_uniform(shape: tuple[int, ...], seed: int) -> Tensor:
    """Uniform in (-b, b), b = 1 / sqrt(inputs), for a [outputs, inputs] matrix; float64; Philox keyed by the seed.

    Source: He et al. 2015 (arXiv 1502.01852) with a = sqrt(5), as PEFT initialises lora_A.
    """
    import numpy as np

    bound = 1 / math.sqrt(shape[1])
    drawn = np.random.Generator(np.random.Philox(key=seed)).random(shape)
    return torch.from_numpy(drawn).mul_(2 * bound).sub_(bound)
