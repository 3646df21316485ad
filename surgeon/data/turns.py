"""Which corpus the next window comes from, so that the counts keep to the shares at every moment."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import numpy as np


class Turns:
    """The corpus of the k-th window, such that every count is within one of what its shares come to, at every k.

    shares: of the corpora from the first window on; later: (first window, shares) of stages with other ones,
    ascending. owed: what a corpus is behind before the first window, in windows; they sum to 0. At each turn, among
    the corpora whose share is due, the one whose deadline is nearest is taken.
    Source: Tijdeman 1980, The chairman assignment problem (deviation at most 1 - 1/(2m - 2) for m corpora; it holds
    for shares that change with the turn).
    """

    def __init__(
        self, shares: Sequence[float], later: Sequence[tuple[int, Sequence[float]]] = (),
        owed: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        stages = [(0, shares), *later]
        self._starts = [float(start) for start, _ in stages] + [math.inf]
        self._shares = [[float(s) for s in of] for _, of in stages]
        # what the shares come to at the start of each stage
        self._due = [[0.0] * len(shares) if owed is None else list(owed)]
        for number, of in enumerate(self._shares[:-1]):
            length = self._starts[number + 1] - self._starts[number]
            self._due.append([due + share * length for due, share in zip(self._due[-1], of, strict=True)])
        self._counts = [0] * len(shares)
        self._stage = 0
        # of every turn so far: the corpus, and how many windows it had given before
        self._corpora, self._before = array("H"), array("q")

    def __getitem__(self, k: int) -> tuple[int, int]:
        """(corpus, how many windows it has given before)."""
        if len(self._counts) == 1:
            return 0, k
        self._reach(k + 1)
        return self._corpora[k], self._before[k]

    def counts(self, turns: int) -> list[int]:
        """How many of the first `turns` windows each corpus gives."""
        if len(self._counts) == 1:
            return [turns]
        self._reach(turns)
        found: list[int] = np.bincount(np.asarray(self._corpora[:turns]), minlength=len(self._counts)).tolist()
        return found

    def target(self, corpus: int, turns: int) -> float:
        """What a corpus' shares come to after so many turns."""
        stage = next(s for s, end in enumerate(self._starts[1:]) if turns <= end)
        return self._due[stage][corpus] + self._shares[stage][corpus] * (turns - self._starts[stage])

    def _reach(self, turns: int) -> None:
        while len(self._corpora) < turns:
            corpus = self._next(len(self._corpora) + 1)
            self._corpora.append(corpus)
            self._before.append(self._counts[corpus])
            self._counts[corpus] += 1

    def _next(self, turn: int) -> int:
        while turn > self._starts[self._stage + 1]:
            self._stage += 1
        slack = 1 / (2 * len(self._counts) - 2)
        since, due = turn - self._starts[self._stage], self._due[self._stage]
        best, nearest = -1, (math.inf, 0.0)
        for i, share in enumerate(self._shares[self._stage]):
            owed = due[i] + share * since - self._counts[i]
            if owed >= slack - 1e-9:
                wanted = (self._wait(i, turn, 1 - slack - owed), -owed)
                if best < 0 or wanted < nearest:
                    best, nearest = i, wanted
        return best

    def _wait(self, corpus: int, turn: int, amount: float) -> float:
        """Turns until the shares of a corpus have grown by `amount`; below 0 where they had before."""
        at = float(turn)
        for stage in range(self._stage, len(self._shares)):
            share, end = self._shares[stage][corpus], self._starts[stage + 1]
            if amount <= 0 and share == 0:
                return at - turn  # due at once
            if share > 0 and at + amount / share <= end:
                return at + amount / share - turn
            if end < math.inf:
                amount, at = amount - share * (end - at), end
        return math.inf
