"""Batches whose rows grow longer in stages, each stage reading on where the one before it stopped."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import cache
from typing import Any

from surgeon.data.mixture import Mixture
from surgeon.data.pack import Packed, Window


class Lengthening:
    """A mixture by shares of tokens, in stages of (steps up to its end, tokens of a row, rows of a step).

    corpora: the streams (split or concat) from their beginning on; shares: of tokens, so of windows too. A stage
    begins in every corpus behind the last token that the stage before it read, so between stages nothing is read
    twice and nothing is left out. What a corpus then is behind its share, or before it, goes along: every count of
    tokens stays within a row of the stage of what the shares come to. All of it is a pure function of the step.
    """

    def __init__(
        self, corpora: Sequence[Packed], shares: Sequence[float], stages: Sequence[tuple[int, int, int]]
    ) -> None:
        self._corpora, self._shares, self._stages = list(corpora), list(shares), list(stages)
        self._mixture = cache(self._make)  # a stage is made when it is first asked for

    def batch(self, step: int) -> list[Window]:
        """The windows of optimiser step `step` (from 0), in order."""
        number = self._stage(step)
        return self._mixture(number).batch(step - self._begin(number))

    def documents_of(self, step: int) -> list[dict[str, Any]]:
        """See Mixture; a window's number counts from the beginning of its stage."""
        number = self._stage(step)
        return self._mixture(number).documents_of(step - self._begin(number))

    def tokens(self, steps: int) -> list[float]:
        """How many tokens of each corpus the first `steps` steps read."""
        return [float(n) for n in self._read(steps)]

    def _read(self, steps: int) -> list[int]:
        if not steps:
            return [0] * len(self._corpora)
        number = self._stage(steps - 1)
        mixture = self._mixture(number)
        counts = mixture.counts(steps - self._begin(number))
        return [p.start + n * p.seq_len for n, p in zip(counts, mixture.corpora, strict=True)]

    def _stage(self, step: int) -> int:
        """The last one goes on behind its end: a probe may read further than the run."""
        return bisect.bisect_right([end for end, _, _ in self._stages[:-1]], step)

    def _begin(self, number: int) -> int:
        return self._stages[number - 1][0] if number else 0

    def _make(self, number: int) -> Mixture:
        _, seq_len, rows = self._stages[number]
        read = self._read(self._begin(number))
        owed = [(share * sum(read) - n) / seq_len for share, n in zip(self._shares, read, strict=True)]
        packs = [packed.resized(seq_len, n) for packed, n in zip(self._corpora, read, strict=True)]
        return Mixture(packs, self._shares, rows, owed=owed)
