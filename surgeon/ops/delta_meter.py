"""Takes the sums over a base, deltas of it and what is stored, piece by piece, with numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from surgeon.ops.delta_sums import DeltaSums

Array = NDArray[np.float32]
_PIECE = 8192  # elements of one dot product: BLAS keeps to one thread below 10,000, so threads change nothing


class DeltaMeter:
    """Takes the sums of pieces of up to `size` elements in float32, in buffers of its own."""

    def __init__(self, num: int, size: int) -> None:
        self.sums = DeltaSums(num)
        self._product = np.empty(size, np.float32)
        self._kept = np.empty(size, np.float32)
        self._moved, self._stayed = np.empty(size, np.bool_), np.empty(size, np.bool_)

    def vectors(self, base: Array, deltas: Sequence[Array]) -> None:
        """A piece of the base and of the deltas."""
        sums, n = self.sums, len(base)
        sums.elements += n
        at = pair = 0
        vectors = [base, *deltas]
        for i, x in enumerate(vectors):
            for j, y in enumerate(vectors[: i + 1]):
                sums.dots[at] += dot(x, y)
                at += 1
                if 0 < j < i:
                    product = np.multiply(x, y, out=self._product[:n])
                    np.abs(product, out=product)
                    sums.absolute[pair] += float(product.sum(dtype=np.float32))
                    pair += 1

    def survival(self, base: Array, meant: Array, stored: Array) -> None:
        """A piece of the base, of the change that was meant (overwritten), and of what is stored."""
        sums, n = self.sums, len(base)
        kept, moved, stayed = np.subtract(stored, base, out=self._kept[:n]), self._moved[:n], self._stayed[:n]
        np.not_equal(meant, 0, out=moved)
        np.equal(kept, 0, out=stayed)
        sums.meant += int(np.count_nonzero(moved))
        sums.unmoved += int(np.count_nonzero(np.logical_and(moved, stayed, out=moved)))
        sums.dd += dot(meant, meant)
        sums.dk += dot(meant, kept)
        np.subtract(meant, kept, out=meant)
        sums.ee += dot(meant, meant)

    def finite(self) -> bool:
        """Whether all sums so far are finite; they are not where an element is not, or is above about 1e19."""
        sums = self.sums
        return all(map(np.isfinite, [*sums.dots, sums.dd, sums.dk, sums.ee]))


def dot(x: Array, y: Array) -> float:
    """x . y, by pieces in float32 and their sum in float64."""
    whole = len(x) // _PIECE * _PIECE
    total = 0.0
    if whole:
        pieces = np.matmul(x[:whole].reshape(-1, 1, _PIECE), y[:whole].reshape(-1, _PIECE, 1))
        total = float(pieces.sum(dtype=np.float64))
    return total + float(np.dot(x[whole:], y[whole:])) if whole < len(x) else total
