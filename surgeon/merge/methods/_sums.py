"""Sums that are the same on every machine, for any threads and wherever chunks end: additions in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Gram = list[list[float]]


def folded(values: Tensor) -> Tensor:
    """float64 [..., n] -> [...]: the sum over the last dimension by halves (the second half is added to the first)."""
    if values.shape[-1] == 0:
        return values.new_zeros(values.shape[:-1])
    while (num := values.shape[-1]) > 1:
        half = num // 2
        halved = values[..., :half] + values[..., half : 2 * half]
        if num % 2:
            halved[..., 0] += values[..., -1]
        values = halved
    return values[..., 0]


def by_row(values: Tensor) -> list[float]:
    """The sum of every row; a vector or a scalar is one row. As plain numbers: small tensors that are kept between
    large ones would break up the memory that these leave."""
    found: list[float] = folded(values.reshape(values.shape[0] if values.dim() > 1 else 1, -1)).tolist()
    return found


def total(sums: Sequence[float]) -> float:
    """Of the row sums of all chunks: rows are summed apart first, so chunks do not show."""
    return float(folded(torch.tensor(sums, dtype=torch.float64)))


def gram(chunks: Iterable[Sequence[Tensor]]) -> Gram:
    """[n][n]: the inner products of n tensors of one shape, given chunk by chunk; float64."""
    rows: dict[tuple[int, int], list[float]] = {}
    num = 0
    for chunk in chunks:
        num = len(chunk)
        for i, left in enumerate(chunk):
            for j in range(i, num):
                rows.setdefault((i, j), []).extend(by_row(left * chunk[j]))
    sums = {pair: total(found) for pair, found in rows.items()}
    return [[sums[min(i, j), max(i, j)] for j in range(num)] for i in range(num)]


def cosine(inner: float, left: float, right: float) -> float | None:
    """Of two vectors from their inner product and squared lengths; None where one of them has no direction."""
    lengths = math.sqrt(left) * math.sqrt(right)
    return min(1.0, max(-1.0, inner / lengths)) if lengths > 0 else None
