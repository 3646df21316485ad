"""A tensor as weighted sums of stored tensors: plain data, small enough to be sent to another process."""

from __future__ import annotations

import math
from dataclasses import dataclass

from surgeon.checkpoint.header import StoredTensor, num_bytes


@dataclass(frozen=True, slots=True)
class Leaf:
    """A stored tensor whose row r + shift meets row r of the output. model: its checkpoint's folder, for messages."""

    stored: StoredTensor
    shift: int
    model: str


@dataclass(frozen=True, slots=True)
class Term:
    """weight x (values - first), both numbers of leaves; first None: nothing is subtracted. values None: the term is
    not there, and counts as no change."""

    weight: float
    values: int | None
    first: int | None


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows [start, stop) of the output: base + the terms, a product and then a sum each, in order, in float64; without
    a base the first term begins the sum. plain False: something in it is computed otherwise."""

    start: int
    stop: int
    base: int | None
    terms: tuple[Term, ...]
    plain: bool = True

    @property
    def leaves(self) -> tuple[int, ...]:
        """The numbers of the leaves that it reads, each once."""
        found = (self.base, *(leaf for term in self.terms for leaf in (term.values, term.first)))
        return tuple(dict.fromkeys(leaf for leaf in found if leaf is not None))


@dataclass(frozen=True)
class WeightedSum:
    """An output tensor: its segments, in order. has_base: whether terms are deltas of a base. models: roles of the
    terms."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    leaves: tuple[Leaf, ...]
    segments: tuple[Segment, ...]
    has_base: bool
    models: tuple[str, ...]

    @property
    def num_terms(self) -> int:
        return max(len(segment.terms) for segment in self.segments)

    @property
    def width(self) -> int:
        """Elements of a row."""
        return math.prod(self.shape[1:])

    @property
    def nbytes(self) -> int:
        return num_bytes(self.dtype, self.shape)

    @property
    def is_plain(self) -> bool:
        """Whether all of it is, so that computing it takes no more memory than some blocks."""
        return all(segment.plain for segment in self.segments)
