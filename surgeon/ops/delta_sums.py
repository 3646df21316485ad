"""Sums over a base, some deltas of it, and what is stored of their combination: taken while a merge is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class DeltaSums:
    """Of the base w (number 0) and the deltas (from 1 on, in the order of the plan): all products, the sums of |x y|
    of pairs of deltas; of the change as it is meant (d) and as it is stored (k): |d|^2, <d, k>, |d - k|^2, and how
    many elements are moved, and of those how many are not moved by what is stored. skipped: elements that were not
    looked at."""

    num: int
    elements: int = 0
    dots: list[float] = field(default_factory=list)
    absolute: list[float] = field(default_factory=list)
    dd: float = 0.0
    dk: float = 0.0
    ee: float = 0.0
    meant: int = 0
    unmoved: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        count = self.num + 1
        self.dots = self.dots or [0.0] * (count * (count + 1) // 2)
        self.absolute = self.absolute or [0.0] * (self.num * (self.num - 1) // 2)

    def add(self, other: DeltaSums) -> None:
        self.elements += other.elements
        self.dots = [a + b for a, b in zip(self.dots, other.dots, strict=True)]
        self.absolute = [a + b for a, b in zip(self.absolute, other.absolute, strict=True)]
        self.dd, self.dk, self.ee = self.dd + other.dd, self.dk + other.dk, self.ee + other.ee
        self.meant, self.unmoved = self.meant + other.meant, self.unmoved + other.unmoved
        self.skipped += other.skipped

    def whole(self) -> DeltaSums:
        """Of one tensor: what the sums are of all of it, as far as the part that was looked at tells; `elements` and
        `skipped` as they are. Tensors of which a part was looked at would count for less than others otherwise."""
        if not self.skipped or not self.elements:
            return self
        by = 1 + self.skipped / self.elements
        return DeltaSums(
            self.num, self.elements, [x * by for x in self.dots], [x * by for x in self.absolute], self.dd * by,
            self.dk * by, self.ee * by, round(self.meant * by), round(self.unmoved * by), self.skipped,
        )  # fmt: skip

    def dot(self, i: int, j: int) -> float:
        """x_i . x_j; 0 is the base."""
        low, high = sorted((i, j))
        return self.dots[high * (high + 1) // 2 + low]

    def product(self, i: int, j: int) -> float:
        """The sum of |x_i x_j| of two deltas, counted from 1."""
        low, high = sorted((i - 1, j - 1))
        return self.absolute[high * (high - 1) // 2 + low]

    def to_json(self) -> list[Any]:
        return [self.num, self.elements, self.dots, self.absolute, self.dd, self.dk, self.ee, self.meant, self.unmoved,
                self.skipped]  # fmt: skip

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> DeltaSums:
        return cls(*value)
