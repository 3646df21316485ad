"""From changes to the merged tensor: their sum, or the sum of those that agree with the elected sign."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def summed(base: Tensor, changes: Iterable[tuple[Tensor, float]]) -> Tensor:
    """base + change x factor + ..., elementwise in float64 in the order given, each product rounded before its sum.
    Where nothing changes the base's zero keeps its sign."""
    merged = base.clone()
    for change, factor in changes:
        merged += change * factor
    return with_zeros_of(base, merged)


def elected(
    base: Tensor, changes: Sequence[Tensor], weights: Sequence[float], scale: float, normalize: bool
) -> Tensor:
    """base + scale x the sum of the changes (weighted already) that have the sign of their total, elementwise.

    A total of zero counts as positive. normalize: divided by the sum of the weights of those that agree.
    """
    found, divisor = torch.zeros_like(base), torch.zeros_like(base)
    for change, weight, agrees in zip(changes, weights, agreeing(changes), strict=True):
        found += torch.where(agrees, change, 0.0)
        divisor += agrees.to(base.dtype) * weight
    if normalize:
        found /= torch.where(divisor == 0, 1.0, divisor)
    return with_zeros_of(base, base + found * scale)


def agreeing(changes: Sequence[Tensor]) -> list[Tensor]:
    """Where each change has the sign of the sum of all; zero agrees with nothing."""
    sums = torch.zeros_like(changes[0])
    for change in changes:
        sums += change
    positive = sums >= 0
    return [torch.where(positive, change > 0, change < 0) for change in changes]


def with_zeros_of(base: Tensor, merged: Tensor) -> Tensor:
    """`merged`, where both are zero with the base's sign: -0.0 + 0.0 is 0.0, and no change is to change no byte."""
    if int(torch.count_nonzero(merged)) == merged.numel():
        return merged
    return torch.where((merged == 0) & (base == 0), base, merged)
