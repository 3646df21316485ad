"""Documents packed into windows of a fixed length: nothing dropped, nothing overwritten, positions per document."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from surgeon.data.shuffle import keyed_permutation
from surgeon.data.tokens import Tokens

Packing = Literal["split", "whole"]
IGNORED = -100  # the label that no loss counts


@dataclass(frozen=True, slots=True)
class Window:
    """A row of S tokens. ids: int32 [S]. labels: int64 [S], the next token where it is a target, else IGNORED.

    lengths: of the segments (parts of documents) in order, padding included as the last one; they sum to S.
    num_tokens: without padding. replay: whether it is of a replay corpus.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int64]
    lengths: tuple[int, ...]
    num_tokens: int
    replay: bool = False

    @property
    def positions(self) -> NDArray[np.int64]:
        """Positions that start again at 0 in every segment; int64 [S]."""
        return np.concatenate([np.arange(n, dtype=np.int64) for n in self.lengths])


class Packed:
    """The windows of a corpus, numbered 0, 1, 2, ... over as many epochs as are asked for.

    split: the documents of an epoch, in an order decided by (seed, stream, epoch), are one stream that is cut every
    S tokens; a document that is cut goes on in the next window as a segment of its own. The stream has no
    padding, also between epochs, and the token behind a cut is still the label of the token before it.
    whole: documents of at most S tokens are never cut (longer ones are, every S tokens); they are put into windows
    by best fit once, the rest of a window is padding, and the windows' order is decided by (seed, stream, epoch).
    Every window is a pure function of its number.
    """

    def __init__(
        self, tokens: Tokens, seq_len: int, seed: int, stream: int, packing: Packing, replay: bool = False
    ) -> None:
        self.tokens, self.seq_len, self.packing, self._replay = tokens, seq_len, packing, replay
        self._seed, self._stream = seed, stream
        # an epoch's order is O(documents) to make and is asked for again and again: keep the last two
        self._order = lru_cache(maxsize=2)(self._make_order)

    @property
    def tokens_per_window(self) -> float:
        """Mean number of tokens in a window, without padding."""
        if self.packing == "split":
            return float(self.seq_len)
        return self.tokens.num_tokens / len(self._bins)

    def epochs(self, num_windows: int) -> float:
        """How often the corpus has been read after so many windows."""
        return num_windows * self.tokens_per_window / self.tokens.num_tokens

    def window(self, number: int) -> Window:
        if self.packing == "whole":
            epoch, place = divmod(number, len(self._bins))
            order, _ = self._order(epoch)
            return self._build(self._bins[int(order[place])])
        return self._build(self._cut(number * self.seq_len))

    def _cut(self, begin: int) -> list[tuple[int, int]]:
        """Segments (start and stop in `ids`) of the stream from `begin` on, S tokens in all."""
        segments, room = [], self.seq_len
        epoch, place = divmod(begin, self.tokens.num_tokens)
        while room:
            order, ends = self._order(epoch)
            at = int(np.searchsorted(ends, place, side="right"))
            while room and at < len(order):
                document = int(order[at])
                stop = int(self.tokens.offsets[document + 1])
                start = stop - (int(ends[at]) - place)
                taken = min(room, stop - start)
                segments.append((start, start + taken))
                room, place, at = room - taken, place + taken, at + 1
            epoch, place = epoch + 1, 0
        return segments

    def _build(self, segments: list[tuple[int, int]]) -> Window:
        ids = np.zeros(self.seq_len, dtype=np.int32)
        labels = np.full(self.seq_len, IGNORED, dtype=np.int64)
        at, lengths = 0, []
        for start, stop in segments:
            count = stop - start
            ids[at : at + count] = self.tokens.ids[start:stop]
            # the document's end bounds the labels, not the segment's: the token behind a cut is learned here
            end = int(self.tokens.offsets[np.searchsorted(self.tokens.offsets, start, side="right")])
            known = min(stop + 1, end) - (start + 1)
            following = self.tokens.ids[start + 1 : start + 1 + known]
            wanted = self.tokens.learn[start + 1 : start + 1 + known]
            labels[at : at + known] = np.where(wanted, following, IGNORED)
            at += count
            lengths.append(count)
        if at < self.seq_len:
            lengths.append(self.seq_len - at)
        return Window(ids, labels, tuple(lengths), at, self._replay)

    def _make_order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The epoch's order of documents (or of bins) and, for documents, their ends in the epoch's stream."""
        if self.packing == "whole":
            return keyed_permutation(len(self._bins), self._seed, self._stream, epoch), np.empty(0, np.int64)
        order = keyed_permutation(self.tokens.num_documents, self._seed, self._stream, epoch)
        return order, np.cumsum(np.diff(self.tokens.offsets)[order])

    @cached_property
    def _bins(self) -> list[list[tuple[int, int]]]:
        """Best fit decreasing: every piece goes where it leaves the least room. Source: Johnson 1973."""
        size, offsets = self.seq_len, self.tokens.offsets
        pieces = [
            (a, min(a + size, int(offsets[d + 1])))
            for d in range(self.tokens.num_documents)
            for a in range(int(offsets[d]), int(offsets[d + 1]), size)
        ]
        pieces.sort(key=lambda p: (p[0] - p[1], p[0]))
        bins: list[list[tuple[int, int]]] = []
        open_bins: list[tuple[int, int]] = []  # (room, bin), ascending
        for start, stop in pieces:
            at = bisect.bisect_left(open_bins, (stop - start, -1))
            if at == len(open_bins):
                room, number = size, len(bins)
                bins.append([])
            else:
                room, number = open_bins.pop(at)
            bins[number].append((start, stop))
            if room > stop - start:
                bisect.insort(open_bins, (room - (stop - start), number))
        return bins
