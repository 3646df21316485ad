"""Sums of squares and products of some vectors, added up chunk by chunk in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any


class Products:
    """Of `num` vectors x_i beside a reference w: |w|^2, x_i.x_j, opposite signs, and the elements that pairs share."""

    def __init__(self, num: int) -> None:
        self.num = num
        self._reference = 0.0
        self._dots = [[0.0] * num for _ in range(num)]
        self._elements = [[0] * num for _ in range(num)]
        self._conflicts = [[0] * num for _ in range(num)]

    def add(self, reference: Any, vectors: Sequence[Any]) -> None:
        """A chunk: tensors of one shape, None for a vector that is not there."""
        import torch

        def flat(tensor: Any) -> Any:
            return tensor.reshape(-1).to(torch.float64)

        w = flat(reference)
        self._reference += torch.dot(w, w).item()
        wide = [None if v is None else flat(v) for v in vectors]
        for i, x in enumerate(wide):
            for j, y in enumerate(wide[: i + 1]):
                if x is None or y is None:
                    continue
                self._dots[i][j] += torch.dot(x, y).item()
                self._elements[i][j] += x.numel()
                if i != j:
                    self._conflicts[i][j] += int((torch.sign(x) * torch.sign(y) < 0).sum())

    def merge(self, other: Products) -> None:
        self._reference += other._reference
        for i in range(self.num):
            for j in range(i + 1):
                self._dots[i][j] += other._dots[i][j]
                self._elements[i][j] += other._elements[i][j]
                self._conflicts[i][j] += other._conflicts[i][j]

    def difference(self) -> dict[str, float | None]:
        """For the vectors (a, b, b - a) beside a: |b - a|, relative to |a| (None where a is zero), and cos(a, b)."""
        norm = math.sqrt(self._dots[2][2])
        return {
            "norm": norm,
            "relative": _ratio(norm, math.sqrt(self._reference)),
            "cosine": _cosine(self._dots[1][0], self._dots[0][0], self._dots[1][1]),
        }

    def report(self, names: Sequence[str]) -> dict[str, Any]:
        """Norms, norms relative to the reference (None where it is zero and the delta is not), and every pair."""
        norms = [math.sqrt(self._dots[i][i]) for i in range(self.num)]
        return {
            "norms": norms,
            "relative": [_ratio(norm, math.sqrt(self._reference)) for norm in norms],
            "pairs": [{"a": names[i], "b": names[j]} | self._pair(i, j) for i, j in combinations(range(self.num), 2)],
        }

    def _pair(self, i: int, j: int) -> dict[str, float | int | None]:
        elements = self._elements[j][i]
        cosine = _cosine(self._dots[j][i], self._dots[i][i], self._dots[j][j])
        there = elements > 0 and cosine is not None
        return {
            "cosine": cosine,
            "null": 1 / math.sqrt(elements) if there else None,
            "z": cosine * math.sqrt(elements) if there and cosine is not None else None,
            "sign_conflicts": self._conflicts[j][i] / elements if elements else None,
            "elements": elements,
        }


def _ratio(norm: float, of: float) -> float | None:
    if of == 0:
        return 0.0 if norm == 0 else None
    return norm / of


def _cosine(product: float, xx: float, yy: float) -> float | None:
    return product / math.sqrt(xx * yy) if xx > 0 and yy > 0 else None
