"""TIES: trim small changes, elect a sign, average what agrees with it."""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.errors import UsageError

ROWWISE = False  # the trim looks at the whole tensor


def ties(
    base: Tensor,
    deltas: list[Tensor],
    weights: list[float],
    *,
    scale: float = 1.0,
    density: float = 0.2,
    normalize: bool = True,
) -> Tensor:
    """base + scale x the merged delta: of every delta the `density` share of largest magnitude is kept (per tensor).

    The sign of an element is that of the weighted sum (zero counts as positive); only deltas of that sign count.
    normalize: divide by the sum of their weights (the paper's disjoint mean). Elements of equal magnitude at the
    edge of the trim are kept in the order of their position. float64.
    Source: Yadav et al. 2023, TIES-Merging (arXiv 2306.01708), algorithm 1; trimmed per tensor as in mergekit.
    """
    if not 0 < density <= 1:
        raise UsageError(f"density={density} is not in (0, 1]", "--option density", "the paper takes 0.2")
    if normalize and min(weights, default=0.0) < 0:
        raise UsageError(
            "normalised weights must not be negative", "--add MODEL=WEIGHT", "use --option normalize=false"
        )
    total, agreeing_sum, divisor = torch.zeros_like(base), torch.zeros_like(base), torch.zeros_like(base)
    trimmed = [_trim(delta, density).mul_(weight) for delta, weight in zip(deltas, weights, strict=True)]
    for delta in trimmed:
        total.add_(delta)
    positive = total >= 0
    for delta, weight in zip(trimmed, weights, strict=True):
        agrees = torch.where(positive, delta > 0, delta < 0)
        agreeing_sum.add_(delta * agrees)
        divisor.add_(agrees, alpha=weight)
    if normalize:
        agreeing_sum.div_(torch.where(divisor == 0, 1.0, divisor))
    return agreeing_sum.mul_(scale).add_(base)


def _trim(delta: Tensor, density: float) -> Tensor:
    keep = max(1, int(density * delta.numel()))
    if keep >= delta.numel():
        return delta.clone()
    order = torch.argsort(delta.abs().reshape(-1), descending=True, stable=True)
    kept = torch.zeros(delta.numel(), dtype=delta.dtype)
    kept[order[:keep]] = delta.reshape(-1)[order[:keep]]
    return kept.reshape(delta.shape)
