"""Model Stock: towards the mean of tuned models, as far as the angle between their changes says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from surgeon.merge.methods._combine import with_zeros_of
from surgeon.merge.methods._options import check_unweighted
from surgeon.merge.methods._sums import cosine, folded, gram

ROWWISE = True
EVERY_DELTA = True  # a model that changes nothing here is one of the N
SINGULAR = 1e-6  # a smaller 1 + (N-1) cos leaves no estimate: the base is kept, as in mergekit


def facts(chunks: Callable[[], Iterator[list[Tensor]]], weights: list[float], *, filter_wise: bool) -> float | None:
    """How far to go, of the whole tensor; None where every row says it for itself."""
    check_unweighted("model_stock", weights, 2)
    if filter_wise:
        return None
    products = gram(chunk[1:] for chunk in chunks())
    pairs = list(itertools.combinations(range(len(products)), 2))
    cosines = [cosine(products[i][j], products[i][i], products[j][j]) or 0.0 for i, j in pairs]
    mean, num = sum(cosines) / len(cosines), len(products)
    divisor = 1 + (num - 1) * mean
    return 0.0 if abs(divisor) < SINGULAR else num * mean / divisor


def model_stock(
    base: Tensor, deltas: list[Tensor], weights: list[float], facts: float | None, *, filter_wise: bool = False
) -> Tensor:
    """base + t x the mean of N >= 2 deltas, t = N cos / (1 + (N-1) cos), cos the mean cosine of two deltas; float64.

    filter_wise: a cosine for every vector along the last dimension. The models have no weights. A delta of zeros has
    the cosine 0. mergekit takes a product of two lengths for at least 1e-6, which shrinks the cosine of short deltas.
    Source: Jang, Yun, Han 2024, Model Stock (arXiv 2403.19522), the interpolation ratio for N models.
    """
    ratio: float | Tensor = _by_row(deltas) if facts is None else facts
    sums = torch.zeros_like(base)
    for delta in deltas:
        sums += delta
    return with_zeros_of(base, base + sums / len(deltas) * ratio)


def _by_row(deltas: list[Tensor]) -> Tensor:
    """[..., 1]: how far to go for each vector along the last dimension."""
    rows = [delta if delta.dim() else delta[None] for delta in deltas]
    lengths = [folded(row * row).sqrt() for row in rows]
    pairs = list(itertools.combinations(range(len(rows)), 2))
    mean = torch.zeros_like(lengths[0])
    for i, j in pairs:
        both = lengths[i] * lengths[j]
        cosines = folded(rows[i] * rows[j]) / torch.where(both > 0, both, 1.0)
        mean += cosines.clamp(-1, 1)
    mean /= len(pairs)
    divisor = 1 + (len(rows) - 1) * mean
    singular = divisor.abs() < SINGULAR
    ratio = torch.where(singular, 0.0, len(rows) * mean / torch.where(singular, 1.0, divisor))
    return ratio[..., None] if deltas[0].dim() else ratio
