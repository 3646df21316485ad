"""DARE: drop changes at random, rescale the rest, then task arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.errors import UsageError

ROWWISE = False  # the random numbers are those of the whole tensor


def dare_linear(
    base: Tensor,
    deltas: list[Tensor],
    weights: list[float],
    seed: int,
    *,
    scale: float = 1.0,
    density: float = 0.5,
) -> Tensor:
    """base + scale x sum of weight x (delta kept with probability `density`) / density, in float64.

    The random numbers come from the counter-based Philox generator with the key (tensor's seed, number of the
    model): the same whatever the threads or the order of the tensors. The rescale is the paper's 1/density;
    mergekit 0.1.5 rescales to the delta's L1 norm instead, which is equal in expectation only.
    Source: Yu et al. 2024, Language Models are Super Mario (arXiv 2311.03099), equation 2.
    """
    import numpy as np

    if not 0 < density <= 1:
        raise UsageError(f"density={density} is not in (0, 1]", "--option density", "the paper drops up to 0.9")
    merged = base.clone()
    for number, (delta, weight) in enumerate(zip(deltas, weights, strict=True)):
        generator = np.random.Generator(np.random.Philox(key=[seed, number]))
        drawn = torch.from_numpy(generator.random(delta.numel())).reshape(delta.shape)
        merged.add_(delta * (drawn < density), alpha=scale * weight / density)
    return merged
