"""Byte pair encoding trained on a table of words, a merge at a time, with a say over every merge.

The trainer of tokenizers learns the same merges (a test holds both to equal results), but cannot leave a pair alone
and does not tell what a merge saves. Here the caller refuses pairs before they are merged, so that counts go on as if
they were not there, and each merge says exactly how many tokens it takes out of the corpus.

The words are at any time as the tokenizer with the merges so far encodes them. For that a merge must not bring about
a pair that an earlier one takes, and it does not: what stands between two final borders of a word is encoded alike
alone, so a piece is always made in one way, and two neighbours never spell a piece that can be reached.

Arrays over all places of all distinct words: the symbol at each place (-1: swallowed by the piece that starts before),
the places of its neighbours, how often its word occurs. A pair's places are found through those of its rarer symbol.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from surgeon.vocab.words import MOST_SYMBOLS

Places = NDArray[np.int64]
_BITS = MOST_SYMBOLS.bit_length() - 1  # of a symbol in the key of a pair
_MASK = MOST_SYMBOLS - 1
_CHARACTER = -1  # stands for the left symbol where a character is chosen


class Merging:
    """The state of training: `best` names what comes next, and `merge` or `choose` does it or `refuse` passes it over.

    codes, lengths, counts: the words, as in surgeon.vocab.words.WordTable. texts: of each symbol; new pieces are
    appended. waiting: what characters save that become pieces only when they are chosen (0: never).
    """

    def __init__(
        self,
        codes: NDArray[np.int32],
        lengths: NDArray[np.int64],
        counts: NDArray[np.int64],
        texts: Sequence[str],
        *,
        waiting: Mapping[int, int],
        min_count: int,
    ) -> None:
        self.texts, self.waiting, self.min_count = list(texts), dict(waiting), max(min_count, 1)
        size = len(codes)
        stops = np.cumsum(lengths)
        self._symbol = codes.astype(np.int32)
        self._count = np.repeat(counts, lengths)
        self._next, self._last = np.arange(1, size + 1), np.arange(-1, size - 1)
        self._next[stops - 1] = self._last[stops - lengths] = -1
        order = np.argsort(self._symbol, kind="stable")
        present, starts = np.unique(self._symbol[order], return_index=True)
        self._places: dict[int, Places] = dict(zip(present.tolist(), np.split(order, starts)[1:], strict=True))
        is_open = np.ones(len(self.texts), dtype=bool)
        is_open[list(self.waiting)] = False
        left = np.flatnonzero(self._next >= 0)
        left = left[is_open[self._symbol[left]] & is_open[self._symbol[self._next[left]]]]
        sums = zip(*_sums(self._keys(left), self._count[left]), strict=True)
        self._pairs = {key: count for key, count in sums if count >= self.min_count}
        self._heap = [(-count, key >> _BITS, key & _MASK) for key, count in self._pairs.items()]
        self._heap += [(-gain, _CHARACTER, symbol) for symbol, gain in self.waiting.items() if gain]
        heapq.heapify(self._heap)

    def best(self) -> tuple[int | None, int] | None:
        """The pair that occurs most often, or (None, character) where that saves at least as much; None at the end.
        Of equals the pair of the lowest symbols."""
        while self._heap:
            negative, left, right = self._heap[0]
            if left == _CHARACTER:
                return None, right
            count = self._pairs.get(left << _BITS | right, 0)
            if count == -negative:
                return left, right
            heapq.heappop(self._heap)
            if count >= self.min_count:
                heapq.heappush(self._heap, (-count, left, right))
        return None

    @property
    def saving(self) -> int:
        """Tokens that what `best` named would save (of a pair that overlaps itself, at most)."""
        return -self._heap[0][0]

    def refuse(self) -> None:
        """Never merge what `best` named; a character that is refused stays bytes."""
        _, left, right = heapq.heappop(self._heap)
        if left != _CHARACTER:
            del self._pairs[left << _BITS | right]

    def choose(self) -> int:
        """Make the character that `best` named a piece. Returns the tokens saved."""
        negative, _, symbol = heapq.heappop(self._heap)
        del self.waiting[symbol]
        at = self._alive(symbol)
        before, after = self._last[at], self._next[at]
        left = np.union1d(before[before >= 0], at[after >= 0])
        for key, count in zip(*_sums(self._keys(left), self._count[left]), strict=True):
            self._more(key >> _BITS, key & _MASK, count)
        return -negative

    def merge(self, left: int, right: int) -> int:
        """Merge the pair everywhere into a new symbol, the last of `texts`. Returns the tokens saved."""
        made = len(self.texts)
        self.texts.append(self.texts[left] + self.texts[right])
        places = self._find(left, right)
        swallowed = self._next[places]
        before, after = self._last[places], self._next[swallowed]
        touching = after[:-1] == places[1:]  # the next occurrence follows at once
        has_before, has_after = before >= 0, after >= 0
        self._symbol[places], self._symbol[swallowed] = made, -1
        self._next[places], self._last[after[has_after]] = after, places[has_after]
        self._places[made] = places
        has_before[1:] &= ~touching
        has_after[:-1] &= ~touching
        count = self._count[places]
        for symbol, num in zip(*_sums(self._symbol[before[has_before]], count[has_before]), strict=True):
            self._less(symbol, left, num)
            self._more(symbol, made, num)
        for symbol, num in zip(*_sums(self._symbol[after[has_after]], count[has_after]), strict=True):
            self._less(right, symbol, num)
            self._more(made, symbol, num)
        both = int(count[1:][touching].sum())
        if both:
            self._less(right, left, both)
            self._more(made, made, both)
        self._pairs.pop(left << _BITS | right, None)
        return int(count.sum())

    def _find(self, left: int, right: int) -> Places:
        """Where the pair stands, ascending; of overlapping ones the first, the third, ..."""
        lefts, rights = self._alive(left), self._alive(right)
        places = lefts if len(lefts) <= len(rights) else self._last[rights]
        after = np.where(places >= 0, self._next[places], -1)
        fits = (after >= 0) & (self._symbol[places] == left) & (self._symbol[after] == right)
        places = places[fits]
        if left == right and len(places) > 1:
            starts = np.concatenate([[True], self._next[places[:-1]] != places[1:]])
            index = np.arange(len(places))
            run = np.maximum.accumulate(np.where(starts, index, 0))
            places = places[(index - run) % 2 == 0]
        return places

    def _alive(self, symbol: int) -> Places:
        places = self._places.get(symbol, np.empty(0, dtype=np.int64))
        kept = places[self._symbol[places] == symbol]
        if len(kept) < len(places):
            self._places[symbol] = kept
        return kept

    def _keys(self, left: Places) -> NDArray[np.int64]:
        return self._symbol[left].astype(np.int64) << _BITS | self._symbol[self._next[left]]

    def _less(self, left: int, right: int, num: int) -> None:
        key = left << _BITS | right
        count = self._pairs.get(key, 0)
        if count > num:
            self._pairs[key] = count - num
        elif count:
            del self._pairs[key]

    def _more(self, left: int, right: int, num: int) -> None:
        """Count a pair that did not stand anywhere before."""
        if num >= self.min_count and left not in self.waiting and right not in self.waiting:
            self._pairs[left << _BITS | right] = num
            heapq.heappush(self._heap, (-num, left, right))


def _sums(keys: NDArray, counts: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Distinct keys, ascending, and the sum of the counts of each."""
    if len(keys) < 2:
        return keys.tolist(), counts.tolist()
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
    return ordered[starts].tolist(), np.add.reduceat(counts[order], starts).tolist()
