"""Sums of squares and products of some vectors, added up chunk by chunk in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


class Products:
    """Of `num` vectors x_i beside a reference w: |w|^2 and x_i.x_j."""

    def __init__(self, num: int) -> None:
        self.num = num
        self._reference = 0.0
        self._dots = [[0.0] * num for _ in range(num)]

    def add(self, reference: Any, vectors: Sequence[Any]) -> None:
        """A chunk: tensors of one shape."""
        import torch

        def flat(tensor: Any) -> Any:
            return tensor.reshape(-1).to(torch.float64)

        w = flat(reference)
        self._reference += torch.dot(w, w).item()
        wide = [flat(v) for v in vectors]
        for i, x in enumerate(wide):
            for j, y in enumerate(wide[: i + 1]):
                self._dots[i][j] += torch.dot(x, y).item()

    def merge(self, other: Products) -> None:
        self._reference += other._reference
        for i in range(self.num):
            for j in range(i + 1):
                self._dots[i][j] += other._dots[i][j]

    def difference(self) -> dict[str, float | None]:
        """For the vectors (a, b, b - a) beside a: |b - a|, relative to |a| (None where a is zero), and cos(a, b)."""
        norm = math.sqrt(self._dots[2][2])
        return {
            "norm": norm,
            "relative": _ratio(norm, math.sqrt(self._reference)),
            "cosine": _cosine(self._dots[1][0], self._dots[0][0], self._dots[1][1]),
        }


def _ratio(norm: float, of: float) -> float | None:
    if of == 0:
        return 0.0 if norm == 0 else None
    return norm / of


def _cosine(product: float, xx: float, yy: float) -> float | None:
    return product / math.sqrt(xx * yy) if xx > 0 and yy > 0 else None
