"""Sums of squares and products of some vectors, added up chunk by chunk in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

_LEAST = 2.0**-960  # a sum of squares below it may have lost some: float64 ends at 2^-1074


class Products:
    """Of `num` vectors x_i beside a reference w: |w|^2 and x_i.x_j.

    Chunks whose squares float64 does not hold (values above about 1e154 or below about 1e-145) are scaled by a power
    of two before, as nrm2 of BLAS does, and added up as fractions; others are never touched by that.
    """

    def __init__(self, num: int) -> None:
        self.num = num
        self._reference = 0.0
        self._dots = [[0.0] * num for _ in range(num)]
        self._far: dict[tuple[int, int], Fraction] = {}  # what is not in the floats; (-1, -1) is of the reference

    def add(self, reference: Any, vectors: Sequence[Any]) -> None:
        """A chunk: tensors of one shape."""
        import torch

        def flat(tensor: Any) -> Any:
            return tensor.reshape(-1).to(torch.float64)

        w = flat(reference)
        self._add(-1, -1, w, w)
        wide = [flat(v) for v in vectors]
        for i, x in enumerate(wide):
            for j, y in enumerate(wide[: i + 1]):
                self._add(i, j, x, y)

    def _add(self, i: int, j: int, x: Any, y: Any) -> None:
        import torch

        found = torch.dot(x, y).item()
        if not _LEAST <= abs(found) < math.inf:
            scales = [_exponent(x), _exponent(y)]
            # a small product of large vectors is what it is: only one that float64 cannot hold is taken again
            if None not in scales and (not math.isfinite(found) or sum(s or 0 for s in scales) < -900):
                x, y = (
                    v * 2.0 ** -(s // 2) * 2.0 ** -(s - s // 2)
                    for v, s in zip((x, y), scales, strict=True)
                    if s is not None
                )
                far = Fraction(torch.dot(x, y).item()) * Fraction(2) ** sum(s or 0 for s in scales)
                self._far[i, j] = self._far.get((i, j), Fraction(0)) + far
                return
        if i < 0:
            self._reference += found
        else:
            self._dots[i][j] += found

    def merge(self, other: Products) -> None:
        self._reference += other._reference
        for i in range(self.num):
            for j in range(i + 1):
                self._dots[i][j] += other._dots[i][j]
        for key, far in other._far.items():
            self._far[key] = self._far.get(key, Fraction(0)) + far

    def difference(self) -> dict[str, float | None]:
        """For the vectors (a, b, b - a) beside a: |b - a|, relative to |a| (None where a is zero), and cos(a, b)."""
        norm, of = self._root(2, 2), self._root(-1, -1)
        return {"norm": norm, "relative": _ratio(norm, of), "cosine": self._cosine()}

    def _plain(self, i: int, j: int) -> float:
        return self._reference if i < 0 else self._dots[i][j]

    def _root(self, i: int, j: int) -> float:
        plain, far = self._plain(i, j), self._far.get((i, j))
        if far is None or not math.isfinite(plain):
            return math.sqrt(plain)
        return _root(far + Fraction(plain))

    def _cosine(self) -> float | None:
        pairs = [(1, 0), (0, 0), (1, 1)]
        product, xx, yy = (self._plain(*pair) for pair in pairs)
        if not all(map(math.isfinite, (product, xx, yy))):
            return math.nan
        if not any(pair in self._far for pair in pairs):
            if not (xx > 0 and yy > 0):
                return None
            whole = xx * yy
            return (
                product / math.sqrt(whole) if _LEAST <= whole < math.inf else product / math.sqrt(xx) / math.sqrt(yy)
            )
        exact, one, other = (self._far.get(pair, Fraction(0)) + Fraction(self._plain(*pair)) for pair in pairs)
        if not (one > 0 and other > 0):
            return None
        found = _root(exact * exact / (one * other))
        return found if exact >= 0 else -found


def _exponent(x: Any) -> int | None:
    """The power of two that its largest element has; None of zeros, and of what is not finite."""
    most = x.abs().max().item() if len(x) else 0.0
    return math.frexp(most)[1] if 0 < most < math.inf else None


def _root(square: Fraction) -> float:
    """The root of a number that a float need not hold; infinite where it does not hold the root."""
    if square == 0:
        return 0.0
    half = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    try:
        return math.ldexp(math.sqrt(square / Fraction(4) ** half), half)
    except OverflowError:
        return math.inf


def _ratio(norm: float, of: float) -> float | None:
    if of == 0:
        return 0.0 if norm == 0 else None
    return norm / of
