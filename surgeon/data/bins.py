"""Documents put into windows whole: by best fit, or one after the other where their order counts."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bins:
    """Pieces of documents (half-open ranges of tokens) by bin: starts, stops int64 [pieces]; bin b holds the pieces
    from ends[b - 1] (0 for the first) to ends[b]."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def pieces(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(starts, stops) of a bin."""
        held = slice(int(self.ends[number - 1]) if number else 0, int(self.ends[number]))
        return self.starts[held], self.stops[held]


def best_fit(offsets: NDArray[np.int64], size: int) -> Bins:
    """Best fit decreasing: every piece goes where it leaves the least room, of equals into the first bin.

    Pieces are documents, longer ones cut every `size` tokens. Source: Johnson 1973. O(pieces): the rooms that are
    open are the bits of a number, and the bins with the same room a heap.
    """
    starts, stops = _pieces(offsets, size, np.arange(len(offsets) - 1))
    ranking = np.lexsort((starts, starts - stops))
    starts, stops = starts[ranking], stops[ranking]
    bins = np.empty(len(starts), dtype=np.int64)
    open_bins: list[list[int]] = [[] for _ in range(size)]
    rooms, count = 0, 0
    for piece, length in enumerate((stops - starts).tolist()):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            number = heapq.heappop(open_bins[room])
            if not open_bins[room]:
                rooms &= ~(1 << room)
        else:
            room, number, count = size, count, count + 1
        bins[piece] = number
        if left := room - length:
            heapq.heappush(open_bins[left], number)
            rooms |= 1 << left
    return _grouped(starts, stops, bins)


def next_fit(offsets: NDArray[np.int64], size: int, order: NDArray[np.int64]) -> Bins:
    """Documents in the order given; a new bin where the next piece does not fit. More padding than best fit."""
    starts, stops = _pieces(offsets, size, order)
    bins = np.empty(len(starts), dtype=np.int64)
    room, number = size, 0
    for piece, length in enumerate((stops - starts).tolist()):
        if length > room:
            room, number = size, number + 1
        bins[piece] = number
        room -= length
    return _grouped(starts, stops, bins)


def _pieces(
    offsets: NDArray[np.int64], size: int, order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    begins, ends = offsets[order], offsets[order + 1]
    counts = -((begins - ends) // size)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(begins, counts) + place * size
    return starts, np.minimum(starts + size, np.repeat(ends, counts))


def _grouped(starts: NDArray[np.int64], stops: NDArray[np.int64], bins: NDArray[np.int64]) -> Bins:
    ranking = np.argsort(bins, kind="stable")
    return Bins(starts[ranking], stops[ranking], np.cumsum(np.bincount(bins)))
