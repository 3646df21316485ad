"""Documents packed into windows of a fixed length: nothing dropped, nothing overwritten, positions per document."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from surgeon.data.bins import Bins, best_fit, next_fit
from surgeon.data.shuffle import keyed_permutation
from surgeon.data.tokens import Tokens

Packing = Literal["split", "whole", "concat"]
IGNORED = -100  # the label that no loss counts


@dataclass(frozen=True, slots=True)
class Window:
    """A row of S tokens. ids: int32 [S]. labels: int64 [S], the next token where it is a target, else IGNORED.

    lengths: of the segments (parts of documents) in order, padding included as the last one; they sum to S.
    num_tokens: without padding. replay: whether it is of a replay corpus. scores: float64 [S], of the document that
    each label is of, not a number where it has none; None where nobody asked.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int64]
    lengths: tuple[int, ...]
    num_tokens: int
    replay: bool = False
    scores: NDArray[np.float64] | None = None

    @property
    def positions(self) -> NDArray[np.int64]:
        """Positions that start again at 0 in every segment; int64 [S]."""
        lengths = np.asarray(self.lengths)
        return np.arange(len(self.ids), dtype=np.int64) - np.repeat(lengths.cumsum() - lengths, lengths)


def num_labels(windows: Iterable[Window]) -> int:
    """How many targets there are in all of them."""
    return sum(int((w.labels != IGNORED).sum()) for w in windows)


class Packed:
    """The windows of a corpus, numbered 0, 1, 2, ... over as many epochs as are asked for.

    split: the documents of an epoch are one stream that is cut every S tokens; a document that is cut goes on in the
    next window as a segment of its own. The stream has no padding, also between epochs, and the token behind a cut is
    still the label of the token before it.
    concat: the same stream, but a window is a single segment: attention crosses documents, positions run through the
    window, and the first token of a document is the label of the last one before it (if it is to be learned).
    whole: documents of at most S tokens are never cut (longer ones are, every S tokens); they are put into windows
    by best fit once, and the rest of a window is padding.
    The order of documents (whole: of windows) is decided by (seed, stream, epoch). With a `ranking` (int64
    [documents], see surgeon.data.order) it is that one in every epoch, and whole fills window after window.
    Every window is a pure function of its number. scores: float64 [documents], handed on to the windows. start: of a
    stream (split, concat), how many tokens of it come before window 0.
    """

    def __init__(
        self, tokens: Tokens, seq_len: int, seed: int, stream: int, packing: Packing,
        ranking: NDArray[np.int64] | None = None, replay: bool = False,
        scores: NDArray[np.float64] | None = None, start: int = 0,
    ) -> None:  # fmt: skip
        self.tokens, self.seq_len, self.packing, self._replay = tokens, seq_len, packing, replay
        self.start = start
        self._seed, self._stream, self._ranking, self._scores = seed, stream, ranking, scores
        # plain views: a slice of a memmap costs more than a window
        self._ids, self._learn, self._offsets = (
            a.view(np.ndarray) for a in (tokens.ids, tokens.learn, tokens.offsets)
        )
        # an epoch's order is O(documents) to make and is asked for again and again: keep the last two
        self._order = lru_cache(maxsize=2)(self._make_order)

    @property
    def tokens_per_window(self) -> float:
        """Mean number of tokens in a window, without padding."""
        if self.packing != "whole":
            return float(self.seq_len)
        return self.tokens.num_tokens / len(self._bins)

    def resized(self, seq_len: int, start: int) -> Packed:
        """The same stream from its token `start` on, in windows of another length. Not for whole: what is left of a
        pass over windows is no stream."""
        if self.packing == "whole":
            raise ValueError("documents that are kept whole are no stream")
        return Packed(
            self.tokens, seq_len, self._seed, self._stream, self.packing, self._ranking, self._replay, self._scores,
            start,
        )  # fmt: skip

    def window(self, number: int) -> Window:
        """Window `number`, from 0."""
        size = self.seq_len
        if self.packing == "whole":
            starts, stops = self._bin(number)
            counts, used = stops - starts, int((stops - starts).sum())
            end = self._offsets[np.searchsorted(self._offsets, stops[-1] - 1, side="right")]
            more = counts.copy()
            more[-1] += int(stops[-1] < end)  # the token behind a cut is learned here
            held, labels = self._read(starts, more)
            ids = np.zeros(size, dtype=np.int32)
            ids[:used] = held[:used]
            padded = np.full(size, IGNORED, dtype=np.int64)
            padded[: len(labels)] = labels
            padding = () if used == size else (size - used,)
            found = self._scored(starts, more)
            return Window(ids, padded, (*counts.tolist(), *padding), used, self._replay, found)
        starts, counts = self._cut(self.start + number * size, size + 1)
        held, labels = self._read(starts, counts)
        found = self._scored(starts, counts)
        counts[-1] -= 1  # the token behind the window
        lengths = (size,) if self.packing == "concat" else tuple(counts[counts > 0].tolist())
        return Window(held[:size], labels, lengths, size, self._replay, found)

    def documents(self, number: int) -> list[int]:
        """The numbers of the documents, in their order in the corpus from 0, that window `number` holds parts of."""
        size = self.seq_len
        starts = self._bin(number)[0] if self.packing == "whole" else self._cut(self.start + number * size, size)[0]
        found: list[int] = (np.searchsorted(self._offsets, starts, side="right") - 1).tolist()
        return found

    def _bin(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        epoch, place = divmod(number, len(self._bins))
        return self._bins.pieces(int(self._order(epoch)[0][place]))

    def _cut(self, begin: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(starts, lengths) of the segments of `count` tokens of the stream from `begin` on."""
        starts, lengths = [], []
        epoch, place = divmod(begin, self.tokens.num_tokens)
        while count:
            order, ends = self._order(epoch)
            first = int(ends.searchsorted(place, side="right"))
            last = int(ends.searchsorted(place + count, side="left"))
            documents = order[first : last + 1]
            begins, stops = self._offsets[documents], self._offsets[documents + 1]
            begins[0] = stops[0] - (ends[first] - place)
            taken = min(count, self.tokens.num_tokens - place)
            stops[-1] -= ends[first + len(documents) - 1] - (place + taken)
            starts.append(begins)
            lengths.append(stops - begins)
            count, epoch, place = count - taken, epoch + 1, 0
        found = (starts[0], lengths[0]) if len(starts) == 1 else (np.concatenate(starts), np.concatenate(lengths))
        kept = found[1] > 0  # a document without tokens is no segment
        return found if kept.all() else (found[0][kept], found[1][kept])

    def _read(
        self, starts: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The tokens of segments, int32 [T], and the labels of all but the last, int64 [T - 1]."""
        ends = counts.cumsum()
        index: NDArray[np.int64] = np.repeat(starts - (ends - counts), counts)
        index += np.arange(len(index))
        if self.tokens.pieces is not None:
            self.tokens.pieces.check(index)
        ids = self._ids[index]
        labels = np.where(self._learn[index[1:]], ids[1:], IGNORED).astype(np.int64)
        if self.packing != "concat":
            labels[ends[:-1] - 1] = IGNORED  # the last token of a document has no label in the next one
        return ids, labels

    def _scored(self, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """The scores of the documents that the labels of `_read` are of, in a row of a window."""
        if self._scores is None:
            return None
        documents = np.searchsorted(self._offsets, starts, side="right") - 1
        found = np.full(self.seq_len, np.nan)
        held = np.repeat(self._scores[documents], counts)[1:]
        found[: len(held)] = held
        return found

    def _make_order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The epoch's order of documents (or of bins) and, for documents, their ends in the epoch's stream."""
        if self._ranking is not None and epoch:
            return self._order(0)
        if self.packing == "whole":
            count = len(self._bins)
            if self._ranking is not None:
                return np.arange(count), np.empty(0, np.int64)
            return keyed_permutation(count, self._seed, self._stream, epoch), np.empty(0, np.int64)
        order = self._ranking
        if order is None:
            order = keyed_permutation(self.tokens.num_documents, self._seed, self._stream, epoch)
        return order, np.cumsum(np.diff(self._offsets)[order])

    @cached_property
    def _bins(self) -> Bins:
        if self._ranking is not None:
            return next_fit(self._offsets, self.seq_len, self._ranking)
        return best_fit(self._offsets, self.seq_len)
