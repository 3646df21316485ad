"""A mixture of corpora by tokens, with replay: every batch is a pure function of the step."""

from __future__ import annotations

from collections.abc import Sequence

from surgeon.data.pack import Packed, Window
from surgeon.errors import UsageError


def shares(
    sizes: Sequence[int], weights: Sequence[float | None], replay: Sequence[bool], replay_ratio: float
) -> list[float]:
    """The share of tokens of each corpus; they sum to 1.

    The replay corpora get `replay_ratio` together, the others the rest: replayed tokens take the place of new ones,
    so the compute does not grow. Inside each group shares follow the weights, or the sizes where none has a weight.
    Source: Ibrahim et al. 2024 (2403.08763), compute-equivalent replay.
    """
    if not 0 <= replay_ratio < 1:
        raise UsageError(
            f"the replay ratio {replay_ratio} is not in [0, 1)", "--replay-ratio", "write for example 0.05"
        )
    found = [0.0] * len(sizes)
    for kind, total in ((False, 1 - replay_ratio), (True, replay_ratio)):
        members = [i for i, r in enumerate(replay) if r is kind]
        given = [weights[i] for i in members]
        if any(w is None for w in given) and any(w is not None for w in given):
            raise UsageError(
                "some corpora have a weight and others do not",
                "--replay" if kind else "--data",
                "give every one of them NAME=PATH:WEIGHT, or none",
            )
        values = [float(sizes[i] if weights[i] is None else weights[i] or 0) for i in members]
        for i, value in zip(members, values, strict=True):
            found[i] = total * value / sum(values)
    whole = sum(found)
    return [f / whole for f in found]


class Turns:
    """Which corpus the k-th window comes from, so that every count is within one of its share at every k.

    At each turn, among those whose share is due, the one whose deadline is nearest is taken.
    Source: Tijdeman 1980, The chairman assignment problem (deviation at most 1 - 1/(2m - 2) for m corpora).
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = [float(s) for s in shares]
        self._counts = [0] * len(self.shares)
        self._turns: list[tuple[int, int]] = []

    def __getitem__(self, k: int) -> tuple[int, int]:
        """(corpus, how many windows it has given before)."""
        while len(self._turns) <= k:
            corpus = self._next(len(self._turns) + 1)
            self._turns.append((corpus, self._counts[corpus]))
            self._counts[corpus] += 1
        return self._turns[k]

    def _next(self, turn: int) -> int:
        count = len(self.shares)
        if count == 1:
            return 0
        slack = 1 / (2 * count - 2)
        best, nearest = -1, float("inf")
        for i, share in enumerate(self.shares):
            owed = share * turn - self._counts[i]
            if share > 0 and owed >= slack - 1e-9:
                deadline = (1 - slack - owed) / share
                if deadline < nearest:
                    best, nearest = i, deadline
        return best


class Mixture:
    """Batches of windows from several packed corpora; its whole state is the number of the step."""

    def __init__(self, corpora: Sequence[Packed], shares: Sequence[float], batch_rows: int) -> None:
        self.corpora, self.batch_rows = list(corpora), batch_rows
        self._turns = Turns(shares)

    def batch(self, step: int) -> list[Window]:
        """The windows of optimiser step `step` (from 0), in order."""
        return [self.corpora[corpus].window(number) for corpus, number in self._of(step)]

    def origins(self, step: int) -> list[int]:
        """The number of the corpus that each window of the batch comes from."""
        return [corpus for corpus, _ in self._of(step)]

    def _of(self, step: int) -> list[tuple[int, int]]:
        return [self._turns[k] for k in range(step * self.batch_rows, (step + 1) * self.batch_rows)]

    def counts(self, steps: int) -> list[int]:
        """How many windows each corpus gives in the first `steps` steps."""
        found = [0] * len(self.corpora)
        for k in range(steps * self.batch_rows):
            found[self._turns[k][0]] += 1
        return found
