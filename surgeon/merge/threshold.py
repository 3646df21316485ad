"""The k elements of largest magnitude of a tensor that is seen chunk by chunk: exactly, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 16  # that a pass over the tensor settles
FEW = 1 << 20  # candidates that are held and divided instead
AT_ONCE = 1 << 16  # elements of a tensor that are not worth a pass


@dataclass(frozen=True, slots=True)
class Cut:
    """Kept is what is larger in magnitude than `value`, and what equals it up to the flat position `last`."""

    value: float
    last: int


def cuts(
    chunks: Callable[[], Iterator[Sequence[Tensor]]], size: int, wanted: Sequence[Sequence[int]]
) -> list[list[Cut]]:
    """wanted[v]: numbers k for vector v -> for each the edge of its k elements of largest magnitude.

    chunks: a fresh run over the vectors (float64, each of `size` elements in all, without NaN), equal pieces of all at
    a time. Of equal magnitudes the first ones are kept: the set is that of a stable descending sort. Each pass settles
    16 bits of the pattern of float64, which orders magnitudes as the numbers do; at most 2**20 candidates are held.
    """
    searches = [[_start(v, min(max(k, 0), size), size) for k in ks] for v, ks in enumerate(wanted)]
    while pending := [s for group in searches for s in group if s.cut is None]:
        _one_pass(chunks, pending)
    return [[s.cut for s in group if s.cut is not None] for group in searches]


def kept(values: Tensor, cut: Cut, start: int) -> Tensor:
    """bool of the shape of `values`, whose first element stands at the flat position `start`."""
    sizes = values.abs().reshape(-1)
    found = sizes >= cut.value
    behind = max(0, cut.last + 1 - start)
    if behind < sizes.numel():
        found[behind:] = sizes[behind:] > cut.value
    return found.reshape(values.shape)


@dataclass
class _Search:
    """One edge: the candidates for it agree in their leading bits; the k-th largest of them is sought."""

    vector: int
    k: int
    candidates: int
    known: int = 0  # leading bits that are settled
    prefix: int = 0  # these bits
    cut: Cut | None = None
    held: tuple[Tensor, Tensor] | None = None  # bits and positions of the candidates, made at once for all of them
    seen: int = 0  # candidates in this pass, the least and the largest of them, the position of the k-th one
    low: int = (1 << 63) - 1
    high: int = 0
    place: int = -1

    @property
    def collects(self) -> bool:
        return self.candidates <= (FEW if self.known else AT_ONCE)

    @property
    def key(self) -> tuple[int, int, int]:
        """Searches that begin alike count together."""
        return self.vector, self.known, self.prefix

    def look(self, here: Tensor, at: Tensor, start: int) -> None:
        """Candidates of a chunk and their indices there."""
        if not len(here):
            return
        stop = self.seen + len(here)
        if self.collects:
            if self.held is None:
                self.held = here.new_empty(self.candidates), here.new_empty(self.candidates)
            self.held[0][self.seen : stop] = here
            self.held[1][self.seen : stop] = at + start
        else:
            self.low, self.high = min(self.low, int(here.min())), max(self.high, int(here.max()))
            if self.seen < self.k <= stop:
                self.place = start + int(at[self.k - self.seen - 1])
        self.seen = stop

    def settle(self, counts: Tensor | None) -> None:
        """What the pass has told: the edge, or more of its leading bits."""
        if self.held is not None:
            self._divide(*self.held)
        elif self.low == self.high:  # all candidates are equal: the first k are kept
            self.cut = Cut(_number(self.low), self.place)
        elif counts is not None:
            above = counts.flip(0).cumsum(0)
            place = int(torch.searchsorted(above, self.k))
            digit = len(counts) - 1 - place
            self.candidates = int(counts[digit])
            self.k -= int(above[place]) - self.candidates
            self.prefix, self.known = (self.prefix << BITS) | digit, self.known + BITS
        self.seen, self.low, self.high = 0, (1 << 63) - 1, 0

    def _divide(self, bits: Tensor, positions: Tensor) -> None:
        import numpy as np

        edge = int(np.partition(bits.numpy(), len(bits) - self.k)[len(bits) - self.k])
        self.cut = Cut(_number(edge), int(positions[bits == edge][self.k - int((bits > edge).sum()) - 1]))
        self.held = None


def _start(vector: int, k: int, size: int) -> _Search:
    edge = Cut(float("inf"), -1) if k == 0 else Cut(0.0, size - 1) if k == size else None
    return _Search(vector, k, size, cut=edge)


def _one_pass(chunks: Callable[[], Iterator[Sequence[Tensor]]], pending: Sequence[_Search]) -> None:
    counts: dict[tuple[int, int, int], Tensor] = {}
    start = 0
    for chunk in chunks():
        patterns = {v: chunk[v].abs().reshape(-1).view(torch.int64) for v in {s.vector for s in pending}}
        found: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}
        for search in pending:
            if search.key not in found:
                found[search.key] = _candidates(patterns[search.vector], search)
                _count(counts, search, found[search.key][0])
            search.look(*found[search.key], start)
        start += next(iter(patterns.values())).numel()
    for search in pending:
        search.settle(counts.get(search.key))


def _candidates(bits: Tensor, search: _Search) -> tuple[Tensor, Tensor]:
    if search.known == 0:
        return bits, torch.arange(len(bits))
    at = torch.nonzero((bits >> (64 - search.known)) == search.prefix).flatten()
    return bits[at], at


def _count(counts: dict[tuple[int, int, int], Tensor], search: _Search, here: Tensor) -> None:
    if search.collects or search.known == 64:
        return
    digits = (here >> (64 - BITS - search.known)) & ((1 << BITS) - 1)
    found = torch.bincount(digits, minlength=1 << BITS)
    counts[search.key] = counts[search.key].add_(found) if search.key in counts else found


def _number(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int64).view(torch.float64))
