"""The Karcher mean of models: the centre, along great circles, of the directions of their tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from surgeon.errors import UsageError
from surgeon.merge.methods._sums import Gram, gram

ROWWISE = True
COMMUTATIVE = True
OPPOSITE = 1e-7  # so near to the point across, where every way is as short, a pull has no direction


def facts(
    chunks: Callable[[], Iterator[list[Tensor]]], weights: list[float], *, max_iter: int, tol: float
) -> list[float]:
    """The factor of every tensor: the mean lies in their span, so that inner products are all that it needs."""
    if max_iter < 1 or not tol > 0:
        raise UsageError(f"max_iter={max_iter}, tol={tol} are not positive", "--option max_iter, tol", "give 10, 1e-5")
    shares = _shares(weights)
    products = gram(chunks())
    lengths = [math.sqrt(products[i][i]) for i in range(len(products))]
    held = [i for i, length in enumerate(lengths) if length > 0 and shares[i] > 0]
    if not held:
        return [0.0] * len(lengths)
    inner = [[products[i][j] / lengths[i] / lengths[j] for j in held] for i in held]
    here = sum(shares[i] for i in held)
    centre = _centre(inner, [shares[i] / here for i in held], max_iter, tol)
    length = sum(share * length for share, length in zip(shares, lengths, strict=True))
    factors = dict(zip(held, centre, strict=True))
    return [factors[i] * length / lengths[i] if i in factors else 0.0 for i in range(len(lengths))]


def karcher(
    tensors: list[Tensor], weights: list[float], facts: list[float], *, max_iter: int = 10, tol: float = 1e-5
) -> Tensor:
    """(mean length) x the unit tensor m with sum of w_i log_m(u_i) = 0, u_i the normalised tensors; float64.

    Found by m <- exp_m(sum of w_i log_m(u_i)) from the normalised mean, until a step is shorter than tol or max_iter
    times. The weights are normalised (mergekit: all equal). Tensors of zeros count for the length only; mergekit does so
    with any that is not longer than tol, and leaves out the pull of a u_i that is nearer to m than tol.
    Source: Wang, Ye, Yin 2026, Functionality-Oriented LLM Merging on the Fisher-Rao Manifold (arXiv 2603.04972), the spherical proxy; the iteration: Buss, Fillmore 2001, Spherical averages, algorithm A1.
    """  # noqa: E501 - the source is one line
    if (number := same_as(weights)) is not None:
        return tensors[number].clone()
    merged = tensors[0] * facts[0]
    for tensor, factor in zip(tensors[1:], facts[1:], strict=True):
        merged += tensor * factor
    return merged


def same_as(weights: list[float], *, max_iter: int = 10, tol: float = 1e-5) -> int | None:
    """The number of the input that the result equals exactly, where there is one."""
    held = [i for i, share in enumerate(_shares(weights)) if share > 0]
    return held[0] if len(held) == 1 else None


def _shares(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    if min(weights) < 0 or total == 0:
        raise UsageError("the weights give no shares", "MODEL=WEIGHT", "give some that are not negative, not all 0")
    return [weight / total for weight in weights]


def _centre(inner: Gram, shares: Sequence[float], max_iter: int, tol: float) -> list[float]:
    """The mean of unit vectors with these inner products as its factors of them."""

    def dot(x: Sequence[float], y: Sequence[float]) -> float:
        return sum(a * b * inner[i][j] for i, a in enumerate(x) for j, b in enumerate(y))

    def length(x: Sequence[float]) -> float:
        return math.sqrt(max(0.0, dot(x, x)))

    units = [[float(i == j) for j in range(len(inner))] for i in range(len(inner))]
    mean = list(shares)
    size = length(mean)
    mean = [m / size for m in mean] if size >= tol else units[0]
    for _ in range(max_iter):
        pull = [0.0] * len(mean)
        for share, unit in zip(shares, units, strict=True):
            cos = min(1.0, max(-1.0, dot(mean, unit)))
            angle = math.acos(cos)
            if 0 < angle < math.pi - OPPOSITE:
                by = share * angle / math.sin(angle)
                pull = [p + by * (u - cos * m) for p, u, m in zip(pull, unit, mean, strict=True)]
        step = length(pull)
        if step < tol:
            break
        mean = [math.cos(step) * m + math.sin(step) / step * p for m, p in zip(mean, pull, strict=True)]
        size = length(mean)
        mean = [m / size for m in mean] if size > tol else mean
    return mean
