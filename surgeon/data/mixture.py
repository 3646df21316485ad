"""A mixture of corpora by tokens, with replay: every batch is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from surgeon.data.pack import Packed, Window
from surgeon.data.turns import Turns
from surgeon.errors import UsageError


def shares(
    sizes: Sequence[float], weights: Sequence[float | None], replay: Sequence[bool], replay_ratio: float
) -> list[float]:
    """The share of tokens of each corpus; they sum to 1.

    The replay corpora get `replay_ratio` together, the others the rest: replayed tokens take the place of new ones,
    so the compute does not grow; or replay comes on top, where the run is made longer by as much. Inside each group
    shares follow the weights, or the sizes where none has a weight.
    Source: Ibrahim et al. 2024 (2403.08763), compute-equivalent replay.
    """
    if not 0 <= replay_ratio < 1:
        raise UsageError(
            f"the replay ratio {replay_ratio} is not in [0, 1)", "--replay-ratio", "write for example 0.05"
        )
    check_weights(weights, replay)
    found = [0.0] * len(sizes)
    for kind, total in ((False, 1 - replay_ratio), (True, replay_ratio)):
        members = [i for i, r in enumerate(replay) if r is kind]
        values = [float(sizes[i] if weights[i] is None else weights[i] or 0) for i in members]
        for i, value in zip(members, values, strict=True):
            found[i] = total * value / sum(values)
    whole = sum(found)
    return [f / whole for f in found]


def check_weights(weights: Sequence[float | None], replay: Sequence[bool]) -> None:
    """Refuse corpora of a kind (replay, or not) of which some have a weight and others do not, and weights without a
    sum."""
    for kind, flag in ((False, "--data"), (True, "--replay")):
        given = [weight for weight, r in zip(weights, replay, strict=True) if r is kind]
        if any(w is None for w in given) and any(w is not None for w in given):
            raise UsageError(
                "some corpora have a weight and others do not",
                flag,
                "give every one of them NAME=PATH:WEIGHT, or none",
            )
        if sum(weight or 0 for weight in given) == math.inf:
            raise UsageError("the weights are too large to be added up", flag, "divide all of them by the same number")


class Batches(Protocol):
    """What a run reads, step by step; a pure function of the step."""

    def batch(self, step: int) -> list[Window]:
        """The windows of optimiser step `step` (from 0), in order."""
        ...

    def tokens(self, steps: int) -> list[float]:
        """How many tokens of each corpus the first `steps` steps read, by the mean of a window."""
        ...

    def documents_of(self, step: int) -> list[dict[str, Any]]:
        """What the windows of a step hold, see Mixture."""
        ...


class Mixture:
    """Batches of windows from several packed corpora; its whole state is the number of the step.

    shares: of windows, from the first one on; later: (first window, shares) of stages with other ones, ascending.
    first: how many windows come before a step, where that is not the step times `batch_rows`: for a batch that grows
    (surgeon.train.batch_ramp). owed: windows (or parts of one) that a corpus is behind its share at the beginning.
    """

    def __init__(
        self, corpora: Sequence[Packed], shares: Sequence[float], batch_rows: int,
        later: Sequence[tuple[int, Sequence[float]]] = (), first: Callable[[int], int] | None = None,
        owed: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.corpora, self.batch_rows = list(corpora), batch_rows
        self._turns = Turns(shares, later, owed)
        self._first = first or (lambda step: step * batch_rows)

    def batch(self, step: int, first: int = 0, stop: int | None = None) -> list[Window]:
        """The windows of optimiser step `step` (from 0), in order; or those from `first` to `stop` of them, without
        making the others: what one rank or one micro-batch reads."""
        return [self.corpora[corpus].window(number) for corpus, number in self._rows(step, first, stop)]

    def counts(self, steps: int) -> list[int]:
        """How many windows each corpus gives in the first `steps` steps."""
        before = self._turns.counts(self._first(0))
        return [after - b for after, b in zip(self._turns.counts(self._first(steps)), before, strict=True)]

    def tokens(self, steps: int) -> list[float]:
        """How many tokens of each corpus the first `steps` steps read, by the mean of a window."""
        return [n * packed.tokens_per_window for n, packed in zip(self.counts(steps), self.corpora, strict=True)]

    def documents_of(self, step: int) -> list[dict[str, Any]]:
        """What the windows of a step hold, in order, as plain data: the corpus by name, the number of the window in
        it, and the numbers of the documents (from 0, in the order of the corpus) that parts of are in the window."""
        return [
            {
                "corpus": self.corpora[corpus].tokens.name,
                "window": number,
                "documents": self.corpora[corpus].documents(number),
            }
            for corpus, number in self._rows(step, 0, None)
        ]

    def _rows(self, step: int, first: int, stop: int | None) -> list[tuple[int, int]]:
        numbers = range(self._first(step), self._first(step + 1))[first:stop]
        return [self._turns[number] for number in numbers]
