"""Which corpus the next window comes from, so that the counts keep to the shares at every moment."""

from __future__ import annotations

import bisect
import math
from array import array
from collections.abc import Sequence

import numpy as np

from surgeon.checkpoint.digest import json_digest
from surgeon.data.turn_table import TurnTable
from surgeon.errors import SurgeonError

PIECE = 1 << 14  # turns


class Turns:
    """The corpus of the k-th window, such that every count is within one of what its shares come to, at every k.

    shares: of the corpora from the first window on; later: (first window, shares) of stages with other ones,
    ascending. owed: what a corpus is behind before the first window, in windows; they sum to 0. At each turn, among
    the corpora whose share is due, the one whose deadline is nearest is taken.
    Source: Tijdeman 1980, The chairman assignment problem (deviation at most 1 - 1/(2m - 2) for m corpora; it holds
    for shares that change with the turn).
    We know of no closed form of this rule (for two corpora it rounds), so the counts at every PIECE turns are kept in
    the cache (surgeon.data.turn_table): a run that goes on counts no more than the turns of a piece again, however
    many it has behind it.
    """

    def __init__(
        self, shares: Sequence[float], later: Sequence[tuple[int, Sequence[float]]] = (),
        owed: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        stages = [(0, shares), *later]
        self._starts = [float(start) for start, _ in stages] + [math.inf]
        self.ends = self._starts[1:]
        self._shares = [[float(s) for s in of] for _, of in stages]
        # what the shares come to at the start of each stage
        self._due = [[0.0] * len(shares) if owed is None else list(owed)]
        for number, of in enumerate(self._shares[:-1]):
            length = self._starts[number + 1] - self._starts[number]
            self._due.append([due + share * length for due, share in zip(self._due[-1], of, strict=True)])
        self._pieces: dict[int, _Piece] = {}
        self._table = TurnTable(json_digest([self._starts[1:-1], self._shares, self._due[0]]), len(shares), PIECE)

    def __getitem__(self, k: int) -> tuple[int, int]:
        """(corpus, how many windows it has given before)."""
        if len(self._shares[0]) == 1:
            return 0, k
        number, place = divmod(k, PIECE)
        return self._piece(number).turn(place)

    def counts(self, turns: int) -> list[int]:
        """How many of the first `turns` windows each corpus gives."""
        if len(self._shares[0]) == 1:
            return [turns]
        number, place = divmod(turns, PIECE)
        return self._piece(number).counts(place)

    def target(self, corpus: int, turns: int) -> float:
        """What a corpus' shares come to after so many turns."""
        stage = next(s for s, end in enumerate(self._starts[1:]) if turns <= end)
        return self._due[stage][corpus] + self._shares[stage][corpus] * (turns - self._starts[stage])

    def _piece(self, number: int) -> _Piece:
        """Turns number * PIECE and on. The last two stay: a probe that looks ahead goes back again."""
        if number not in self._pieces:
            self._pieces[number] = _Piece(self, number * PIECE, self._counts_before(number))
            for old in list(self._pieces)[:-2]:
                del self._pieces[old]
        return self._pieces[number]

    def _counts_before(self, number: int) -> list[int]:
        """The counts where a piece begins: from the nearest one before it that is known, and so on."""
        known, held = self._table.nearest(number)
        if known:
            self._check(known * PIECE, held)
        for before in range(known, number):
            # the piece that was read last is done already, or nearly
            piece = self._pieces.get(before) or _Piece(self, before * PIECE, held)
            held = piece.counts(PIECE)
            self._table.keep(before + 1, held)
        return held

    def _check(self, turns: int, counts: Sequence[int]) -> None:
        """Refuse counts that are not those of so many turns."""
        far = max(abs(count - self.target(i, turns)) for i, count in enumerate(counts))
        if sum(counts) != turns or far > 1 + 1e-6:
            raise SurgeonError(
                f"kept counts of {turns} turns are not near their shares: {', '.join(map(str, counts))}",
                str(self._table.path(turns // PIECE)),
                "remove this folder and run again",
            )

    def stage(self, turn: int) -> int:
        """The stage that turn `turn` (from 1) is in."""
        return bisect.bisect_left(self._starts, turn, lo=1) - 1

    def next(self, turn: int, stage: int, counts: Sequence[int]) -> int:
        """The corpus of turn `turn` (from 1), after so many windows of each."""
        slack = 1 / (2 * len(counts) - 2)
        since, due = turn - self._starts[stage], self._due[stage]
        best, nearest = -1, (math.inf, 0.0)
        for i, share in enumerate(self._shares[stage]):
            owed = due[i] + share * since - counts[i]
            if owed >= slack - 1e-9:
                wanted = (self._wait(i, turn, stage, 1 - slack - owed), -owed)
                if best < 0 or wanted < nearest:
                    best, nearest = i, wanted
        return best

    def _wait(self, corpus: int, turn: int, begin: int, amount: float) -> float:
        """Turns until the shares of a corpus have grown by `amount`; below 0 where they had before."""
        at = float(turn)
        for stage in range(begin, len(self._shares)):
            share, end = self._shares[stage][corpus], self._starts[stage + 1]
            if amount <= 0 and share == 0:
                return at - turn  # due at once
            if share > 0 and at + amount / share <= end:
                return at + amount / share - turn
            if end < math.inf:
                amount, at = amount - share * (end - at), end
        return math.inf


class _Piece:
    """Some turns in a row, found one after the other as far as they are asked for.

    begin: turns before them, and counts: the windows that each corpus has given in those.
    """

    def __init__(self, rule: Turns, begin: int, counts: Sequence[int]) -> None:
        self._rule, self._begin, self._first, self._counts = rule, begin, list(counts), list(counts)
        self._stage = rule.stage(begin + 1)
        # of every turn so far: the corpus, and how many windows it had given before
        self._corpora, self._before = array("H"), array("q")

    def turn(self, place: int) -> tuple[int, int]:
        """(corpus, how many windows it has given before) of turn `place`, from 0."""
        self._reach(place + 1)
        return self._corpora[place], self._before[place]

    def counts(self, turns: int) -> list[int]:
        """What each corpus has given after so many of these turns."""
        self._reach(turns)
        if turns == len(self._corpora):
            return list(self._counts)
        more = np.bincount(np.asarray(self._corpora[:turns]), minlength=len(self._first))
        return [first + int(m) for first, m in zip(self._first, more, strict=True)]

    def _reach(self, turns: int) -> None:
        while len(self._corpora) < turns:
            turn = self._begin + len(self._corpora) + 1
            while turn > self._rule.ends[self._stage]:
                self._stage += 1
            corpus = self._rule.next(turn, self._stage, self._counts)
            self._corpora.append(corpus)
            self._before.append(self._counts[corpus])
            self._counts[corpus] += 1
