"""Takes the sums over a base, deltas of it and what is stored, piece by piece, with numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from surgeon.ops.delta_sums import DeltaSums

Array = NDArray[np.float32]
Wide = NDArray[np.float64]
_PIECE = 8192  # elements of one dot product: BLAS keeps to one thread below 10,000, so threads change nothing
_LEAST = 2.0**-102  # mean square below which some squares may be too small for float32, whose errors are up to 2^-150


class DeltaMeter:
    """Takes the sums of pieces of up to `size` elements in float32, in buffers of its own; in float64 those of pieces
    whose squares float32 does not hold (values above about 1e19, or all below about 1e-15)."""

    def __init__(self, num: int, size: int, rounded: bool) -> None:
        """rounded: what comes in float32 may have been rounded to it, so that its zeros need be none."""
        self.sums, self._rounded = DeltaSums(num), rounded
        self._product = np.empty(size, np.float32)
        self._kept = np.empty(size, np.float32)
        self._moved, self._stayed = np.empty(size, np.bool_), np.empty(size, np.bool_)

    def vectors(self, base: Array, deltas: Sequence[Array], wide: Callable[[], Sequence[Wide]]) -> None:
        """A piece of the base and of the deltas. wide: the same, the base first, in float64."""
        vectors = [base, *deltas]
        dots, absolute = self._products(vectors)
        squares = [dots[i * (i + 3) // 2] for i in range(len(vectors))]
        if not (all(map(math.isfinite, [*dots, *absolute])) and all(map(self._is_held, squares, vectors))):
            dots, absolute = _wide_products(wide())
        sums = self.sums
        sums.elements += len(base)
        sums.dots = [a + b for a, b in zip(sums.dots, dots, strict=True)]
        sums.absolute = [a + b for a, b in zip(sums.absolute, absolute, strict=True)]

    def _products(self, vectors: Sequence[Array]) -> tuple[list[float], list[float]]:
        """As DeltaSums has them."""
        dots, absolute = [], []
        for i, x in enumerate(vectors):
            for j, y in enumerate(vectors[: i + 1]):
                dots.append(dot(x, y))
                if 0 < j < i:
                    product = np.multiply(x, y, out=self._product[: len(x)])
                    np.abs(product, out=product)
                    absolute.append(float(product.sum(dtype=np.float32)))
        return dots, absolute

    def survival(self, base: Array, meant: Array, stored: Array, wide: Callable[[], Sequence[Wide]]) -> None:
        """A piece of the base, of the change that was meant, and of what is stored; wide: the same in float64."""
        n = len(base)
        kept, moved, stayed = np.subtract(stored, base, out=self._kept[:n]), self._moved[:n], self._stayed[:n]
        np.not_equal(meant, 0, out=moved)
        np.equal(kept, 0, out=stayed)
        dd, dk = dot(meant, meant), dot(meant, kept)
        error = np.subtract(meant, kept, out=kept)
        ee = dot(error, error)
        if not (all(map(math.isfinite, (dd, dk, ee))) and self._is_held(dd, meant)):
            before, change, after = wide()
            after = after - before
            np.not_equal(change, 0, out=moved)
            np.equal(after, 0, out=stayed)
            dd, dk = _wide_dot(change, change), _wide_dot(change, after)
            change = change - after
            ee = _wide_dot(change, change)
        sums = self.sums
        sums.meant += int(np.count_nonzero(moved))
        sums.unmoved += int(np.count_nonzero(np.logical_and(moved, stayed, out=moved)))
        sums.dd, sums.dk, sums.ee = sums.dd + dd, sums.dk + dk, sums.ee + ee

    def _is_held(self, square: float, x: Array) -> bool:
        """Whether x . x in float32 is exact enough: none of its terms that matter is too small for the type."""
        return square >= len(x) * _LEAST or not (self._rounded or x.any())

    def finite(self) -> bool:
        """Whether all sums so far are finite; they are not where an element is not, or is above about 1e154."""
        sums = self.sums
        return all(map(np.isfinite, [*sums.dots, *sums.absolute, sums.dd, sums.dk, sums.ee]))


def dot(x: Array, y: Array) -> float:
    """x . y, by pieces in float32 and their sum in float64."""
    whole = len(x) // _PIECE * _PIECE
    total = 0.0
    if whole:
        pieces = np.matmul(x[:whole].reshape(-1, 1, _PIECE), y[:whole].reshape(-1, _PIECE, 1))
        total = float(pieces.sum(dtype=np.float64))
    return total + float(np.dot(x[whole:], y[whole:])) if whole < len(x) else total


def _wide_products(vectors: Sequence[Wide]) -> tuple[list[float], list[float]]:
    pairs = [(i, j) for i in range(len(vectors)) for j in range(i + 1)]
    dots = [_wide_dot(vectors[i], vectors[j]) for i, j in pairs]
    return dots, [float(np.abs(vectors[i] * vectors[j]).sum()) for i, j in pairs if 0 < j < i]


def _wide_dot(x: Wide, y: Wide) -> float:
    return float(np.einsum("i,i->", x, y))  # of one thread, unlike BLAS
