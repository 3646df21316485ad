"""Uniform random numbers of a tensor that belong to the place of an element: the same for any chunks and threads."""

from __future__ import annotations

from torch import Tensor

WORDS = 4  # 64-bit words that Philox gives a step of its counter, one a float64


def uniform(seed: int, number: int, start: int, count: int) -> Tensor:
    """float64 [count] in [0, 1): elements start to start + count of the sequence with the key (seed, number).

    seed: of the tensor. number: of the model. Equal to that part of a draw of the whole tensor at once.
    Source: Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3 (Philox4x64-10, as in numpy).
    """
    import numpy as np
    import torch

    steps, skip = divmod(start, WORDS)
    bits = np.random.Philox(key=np.array([seed, number], dtype=np.uint64)).advance(steps)
    return torch.from_numpy(np.random.Generator(bits).random(skip + count)[skip:])
