"""How the deltas of a merge lie to their base and to each other, by block and part, from sums taken in its pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from surgeon.arch.family import Family
from surgeon.ops.delta_sums import DeltaSums

OUTSIDE = "outside"
FAR = 6.0  # median absolute deviations from the median of the unit's part
MOST = 10  # outliers told


class Diagnosis:
    """Sums over tensors of `family`, with the deltas of several models; a tensor need not have all of them.

    Relative norms are |delta| / |base|. The cosine of two deltas of a tensor of d elements that point anywhere, each
    for itself, is about 1/sqrt(d), its null; of several tensors t, sqrt(sum |x_t|^2 |y_t|^2 / d_t) / (|x| |y|), which
    is 1/sqrt(d) too where norms go with the number of elements. z is the cosine in units of its null. Sign conflicts
    are weighted: the share of sum |x y| in which x and y have opposite signs. Norm disparity is the larger over the
    smaller norm.
    """

    def __init__(self, family: Family, models: Sequence[str]) -> None:
        self.family, self.models = family, list(models)
        self._units: dict[str, _Group] = {}

    def add(self, name: str, sums: DeltaSums, models: Sequence[str]) -> None:
        """The sums of one tensor, whose deltas are those of these models."""
        group = _Group(len(self.models))
        group.take(sums, [self.models.index(m) for m in models])
        self._units.setdefault(self._label(name), _Group(len(self.models))).add(group)

    def _label(self, name: str) -> str:
        unit = self.family.unit(name)
        return unit.part if unit.block is None else f"{unit.block}.{unit.part}"

    def report(self, names: Mapping[str, str]) -> dict[str, Any]:
        """{"models", "total", "blocks", "parts", "units", "outliers"}; names: role -> what a person calls it."""
        shown = [names[m] for m in self.models]
        groups: dict[str, dict[str, _Group]] = {"blocks": {}, "parts": {}}
        total = _Group(len(self.models))
        for label, group in self._units.items():
            block, part = _split(label)
            groups["blocks"].setdefault(block, _Group(len(self.models))).add(group)
            groups["parts"].setdefault(part, _Group(len(self.models))).add(group)
            total.add(group)
        described: dict[str, Any] = {"models": shown, "total": total.report(shown)}
        for key, held in ({"units": self._units} | groups).items():
            described[key] = [{"unit": label} | held[label].report(shown) for label in sorted(held, key=_order)]
        return described | {"outliers": _outliers(described["units"], shown)}


class _Group:
    """Products of a base and `num` deltas; elements that two of them share."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.base = 0.0
        self.dots: dict[tuple[int, int], float] = {}
        self.absolute: dict[tuple[int, int], float] = {}
        self.elements: dict[tuple[int, int], int] = {}
        self.spread: dict[tuple[int, int], float] = {}  # of x.y where both point anywhere: its variance

    def take(self, sums: DeltaSums, at: Sequence[int]) -> None:
        measured, sums = sums.elements, sums.whole()
        self.base += sums.dot(0, 0)
        for i, x in enumerate(at):
            for j, y in enumerate(at[: i + 1]):
                key = (min(x, y), max(x, y))
                self.dots[key] = sums.dot(i + 1, j + 1)
                # a tensor that one of them leaves as it is has no random direction there
                xx, yy = sums.dot(i + 1, i + 1), sums.dot(j + 1, j + 1)
                self.elements[key] = measured if xx > 0 < yy else 0
                self.spread[key] = xx * yy / measured if xx > 0 < yy else 0.0
                if i != j:
                    self.absolute[key] = sums.product(i + 1, j + 1)

    def add(self, other: _Group) -> None:
        self.base += other.base
        for mine, theirs in (
            (self.dots, other.dots), (self.absolute, other.absolute), (self.spread, other.spread),
        ):  # fmt: skip
            for key, value in theirs.items():
                mine[key] = mine.get(key, 0.0) + value
        for key, count in other.elements.items():
            self.elements[key] = self.elements.get(key, 0) + count

    def report(self, names: Sequence[str]) -> dict[str, Any]:
        norms = [math.sqrt(self.dots.get((i, i), 0.0)) for i in range(self.num)]
        return {
            "norms": norms,
            "relative": [_ratio(norm, math.sqrt(self.base)) for norm in norms],
            "pairs": [{"a": names[i], "b": names[j]} | self._pair(i, j) for i, j in combinations(range(self.num), 2)],
        }

    def _pair(self, i: int, j: int) -> dict[str, float | int | None]:
        xx, yy, elements = self.dots.get((i, i), 0.0), self.dots.get((j, j), 0.0), self.elements.get((i, j), 0)
        xy, absolute = self.dots.get((i, j), 0.0), self.absolute.get((i, j), 0.0)
        there = elements > 0 and xx > 0 and yy > 0
        cosine = xy / math.sqrt(xx * yy) if there else None
        null = math.sqrt(self.spread[i, j] / (xx * yy)) if there else None
        return {
            "cosine": cosine,
            "null": null,
            "z": cosine / null if cosine is not None and null else None,
            "sign_conflicts": max(0.0, (1 - xy / absolute) / 2) if 0 < absolute < math.inf else None,
            "disparity": math.sqrt(max(xx, yy) / min(xx, yy)) if there else None,
            "elements": elements,
        }


def _ratio(norm: float, of: float) -> float | None:
    if of == 0:
        return 0.0 if norm == 0 else None
    return norm / of


def _split(label: str) -> tuple[str, str]:
    head, dot, rest = label.partition(".")
    return (head, rest) if dot and head.isdigit() else (OUTSIDE, label)


def _order(label: str) -> tuple[int, str]:
    head = label.partition(".")[0]
    return (int(head) if head.isdigit() else -1, label)


def _outliers(units: Iterable[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Units whose relative norm is far from that of the same part in the other blocks, the farthest first."""
    by_part: dict[str, list[Mapping[str, Any]]] = {}
    for unit in units:
        block, part = _split(unit["unit"])
        if block != OUTSIDE:
            by_part.setdefault(part, []).append(unit)
    found = []
    for held in by_part.values():
        for i, name in enumerate(names):
            values = [u["relative"][i] for u in held if u["relative"][i]]
            if len(values) < 4:
                continue
            middle = median(values)
            spread = median([abs(v - middle) for v in values])
            for unit in held:
                value = unit["relative"][i]
                if value and spread and abs(value - middle) / spread > FAR:
                    found.append({"unit": unit["unit"], "model": name, "relative": value, "median": middle,
                                  "deviations": (value - middle) / spread})  # fmt: skip
    return sorted(found, key=lambda o: -abs(o["deviations"]))[:MOST]
