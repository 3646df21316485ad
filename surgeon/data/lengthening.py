"""Batches whose rows grow longer in stages, each stage reading on where the one before it stopped."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

from surgeon.data.mixture import Mixture
from surgeon.data.pack import Packed, Window


class Lengthening:
    """A mixture by shares of tokens, in stages of (steps up to its end, tokens of a row, rows of a step).

    corpora: the streams (split or concat) from their beginning on; shares: of tokens, so of windows too; later:
    (tokens of the run before them, other shares), ascending, which hold from the nearest row on. A stage
    begins in every corpus behind the last token that the stage before it read, so between stages nothing is read
    twice and nothing is left out. What a corpus then is behind its share, or before it, goes along: every count of
    tokens stays within a row of the stage of what the shares come to. All of it is a pure function of the step.
    """

    def __init__(
        self, corpora: Sequence[Packed], shares: Sequence[float], stages: Sequence[tuple[int, int, int]],
        later: Sequence[tuple[int, Sequence[float]]] = (),
    ) -> None:  # fmt: skip
        self._corpora, self._stages = list(corpora), list(stages)
        steps = [end - begin for begin, end in pairwise([0, *(end for end, _, _ in stages)])]
        sizes = [n * seq_len * rows for n, (_, seq_len, rows) in zip(steps, stages, strict=True)]
        # of each stage, the tokens before it
        self._before = [0, *accumulate(sizes)][:-1]
        # of shares, the tokens before them: whole rows
        self._shares = [(0, list(shares)), *((self._row(tokens), list(of)) for tokens, of in later)]
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

    def _row(self, tokens: int) -> int:
        """The end of the row nearest to so many tokens of the run, in tokens."""
        number = bisect.bisect_right(self._before, tokens) - 1
        begin, seq_len = self._before[number], self._stages[number][1]
        return begin + (2 * (tokens - begin) + seq_len) // (2 * seq_len) * seq_len

    def _due(self, corpus: int, tokens: int) -> float:
        """What a corpus' shares come to after so many tokens of the run."""
        ends = [*(begin for begin, _ in self._shares[1:]), tokens]
        held = zip(self._shares, ends, strict=True)
        return sum(of[corpus] * (min(end, tokens) - begin) for (begin, of), end in held if begin < tokens)

    def _make(self, number: int) -> Mixture:
        _, seq_len, rows = self._stages[number]
        read = self._read(self._begin(number))
        begin = sum(read)
        owed = [(self._due(corpus, begin) - n) / seq_len for corpus, n in enumerate(read)]
        packs = [packed.resized(seq_len, n) for packed, n in zip(self._corpora, read, strict=True)]
        end = self._before[number + 1] if number + 1 < len(self._before) else math.inf
        shares = [of for before, of in self._shares if before <= begin][-1]
        later = [((before - begin) // seq_len, of) for before, of in self._shares if begin < before < end]
        return Mixture(packs, shares, rows, later, owed=owed)
