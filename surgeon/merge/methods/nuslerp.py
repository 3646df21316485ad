"""Spherical interpolation of two task vectors, or of two models, as wholes or vector by vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.merge.methods._arc import arc
from surgeon.merge.methods._combine import with_zeros_of
from surgeon.merge.methods._options import second_share
from surgeon.merge.methods._sums import cosine, folded, gram

ROWWISE = True
EVERY_DELTA = True  # it is between two
COMMUTATIVE = True  # each model has its own weight
BASE_OPTIONAL = True  # without a base, `base` is None and `deltas` are the two models themselves
COLLINEAR = 1e-16  # below this squared sine the arc is its chord, as in mergekit

Factors = tuple[float | Tensor, float | Tensor]


def facts(
    chunks: Callable[[], Iterator[list[Tensor]]], weights: list[float], *, flatten: bool, row_wise: bool
) -> Factors | None:
    """The factors of the two tensors; a pair for each position along the first dimension where `row_wise`. None where
    vectors lie within rows."""
    if flatten and row_wise:
        raise UsageError("row_wise is about parts of a tensor", "--option row_wise", "add --option flatten=false")
    share = second_share("nuslerp", weights)
    pairs = (chunk[-2:] for chunk in chunks())
    if flatten:
        ((aa, ab), (_, bb)) = gram(pairs)
        return _factors(share, ab, aa, bb)
    return _along_first(share, pairs) if row_wise else None


def nuslerp(
    base: Tensor | None,
    deltas: list[Tensor],
    weights: list[float],
    facts: Factors | None,
    *,
    flatten: bool = True,
    row_wise: bool = False,
) -> Tensor:
    """base + sin((1-t)A)/sin(A) a + sin(tA)/sin(A) b for two deltas a, b at the angle A; float64.

    t is the second's share of the weights. Without a base, of the two tensors themselves.
    flatten: one angle, of the whole tensors. Otherwise one for each vector along the last dimension, or along the
    first one with row_wise (the name and the meaning are mergekit's: what runs along the first dimension of a stored
    [outputs, inputs] matrix is a column). Vectors of zeros, and collinear ones, are interpolated linearly: mergekit
    takes zeros for a vector at a right angle, and shrinks the cosine of vectors shorter than 1e-7.
    Source: Shoemake 1985, Animating rotation with quaternion curves, section 3.3; on task vectors: mergekit, nuslerp.
    """
    a, b = deltas
    if (number := same_as(weights)) is not None:
        found = deltas[number]
    else:
        left, right = facts if facts is not None else _along_last(second_share("nuslerp", weights), a, b)
        found = a * left + b * right
    return found.clone() if base is None else with_zeros_of(base, base + found)


def same_as(weights: list[float], *, flatten: bool = True, row_wise: bool = False) -> int | None:
    """The number of the model that the result equals exactly, where there is one."""
    return {0.0: 0, 1.0: 1}.get(second_share("nuslerp", weights))


def _factors(share: float, inner: float, left: float, right: float) -> tuple[float, float]:
    cos = cosine(inner, left, right)
    return arc(share, cos, cos is not None and 1 - cos * cos <= COLLINEAR)


def _each(share: float, inner: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Of tensors of inner products, one number at a time: see arc."""
    sums = zip(inner.flatten().tolist(), left.flatten().tolist(), right.flatten().tolist(), strict=True)
    found = torch.tensor([_factors(share, *three) for three in sums], dtype=inner.dtype).reshape(-1, 2)
    return found[:, 0].reshape(inner.shape), found[:, 1].reshape(inner.shape)


def _along_last(share: float, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    inner, aa, bb = (folded(x)[..., None] if x.dim() else x for x in (a * b, a * a, b * b))
    return _each(share, inner, aa, bb)


def _along_first(share: float, pairs: Iterator[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Row after row, so that chunks do not show; a scalar is one row."""
    sums: list[Tensor] = []
    for a, b in pairs:
        products = [x if x.dim() else x[None] for x in (a * b, a * a, b * b)]
        sums = sums or [torch.zeros_like(products[0][0]) for _ in products]
        for held, rows in zip(sums, products, strict=True):
            for row in rows:
                held += row
    return _each(share, *sums)
