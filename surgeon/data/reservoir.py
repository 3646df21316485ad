"""A uniform sample of a stream whose end is not known, in bounded room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from surgeon.errors import UsageError

T = TypeVar("T")
_WORD = 1 << 64
_OFFER, _DRAW = 0, 1  # each use of the seed has words of its own


class Reservoir(Generic[T]):
    """After n items every one of them is held with probability size / n, whatever their order.

    The n-th item (from 1) is accepted with probability size / n, and then takes the place of one that is held, each
    with the same probability. The decision is a pure function of (seed, n), so a stream that is offered again gives
    the same sample, and one that goes on from a state the sample of one that never stopped.
    Source: Vitter 1985, algorithm R. The buffer of 2508.01908's code overwrites a place for every batch once it is
    full, which prefers what came last.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise UsageError(f"a reservoir of {size} items holds nothing", "size", "give 1 or more")
        self.size, self.seed = size, seed
        self.seen = 0
        self.items: list[T] = []

    def offer(self, item: T) -> int | None:
        """The place the item was put into, None where it was not accepted."""
        self.seen += 1
        if len(self.items) < self.size:
            self.items.append(item)
            return len(self.items) - 1
        place = _below(self.seen, self.seed, _OFFER, self.seen - 1)
        if place >= self.size:
            return None
        self.items[place] = item
        return place

    def draw(self, number: int) -> T:
        """One of the held items, each with the same probability, decided by (seed, number). Raises UsageError where
        nothing is held."""
        if not self.items:
            raise UsageError("nothing was offered to the reservoir", "draw", "offer items first")
        return self.items[_below(len(self.items), self.seed, _DRAW, number)]

    def state(self) -> dict[str, Any]:
        """Plain data, where the items are."""
        return {"size": self.size, "seed": self.seed, "seen": self.seen, "items": list(self.items)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Reservoir[T]:
        """The reservoir that gave this state."""
        found = cls(state["size"], state["seed"])
        found.seen, found.items = state["seen"], list(state["items"])
        return found


def _below(count: int, seed: int, use: int, number: int) -> int:
    """A whole number from 0 to count - 1, exactly uniform over the words of Philox at (seed, use, number).

    Words at the end of the range, which would favour small numbers, are passed over. The raw words are fixed by the
    algorithm, numpy's own `integers` is not. Source: Salmon et al. 2011, Philox4x64.
    """
    key = np.array([seed & (_WORD - 1), use], dtype=np.uint64)
    # the counter's own words step the generator; the number stands above them
    words = np.random.Philox(key=key, counter=np.array([0, 0, number, 0], dtype=np.uint64))
    limit = _WORD - _WORD % count
    while True:
        word = int(words.random_raw())
        if word < limit:
            return word % count
