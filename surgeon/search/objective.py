"""What a search minimises: regrets, the choice among what was evaluated, and the points that none beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["grid", "compared", "refined"]
FORMULA = "regret of a corpus = its loss - the least loss of any evaluated point on it, in nats per token"


class Point(NamedTuple):
    """Weights of the searched vectors, and the loss on each corpus in nats per token.

    kind: of the grid, proposed by a fitted surface, or only there to compare with (unless it is in the range).
    """

    weights: tuple[float, ...]
    losses: tuple[float, ...]
    kind: Kind


class Objective(NamedTuple):
    """name: `min-max`, `mean`, or that of a corpus; corpora: their names, in order."""

    name: str
    corpora: tuple[str, ...]

    def of(self, regrets: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values of points, float64 [points], from their regrets, float64 [points, corpora]: the largest, the
        mean, or that of the one corpus (whose least regret is where its loss is least).

        Source: Savage 1951, The Theory of Statistical Decision (J. Am. Stat. Assoc. 46), for minimax regret.
        """
        if self.name == "min-max":
            return regrets.max(1)
        if self.name == "mean":
            return regrets.mean(1)
        return regrets[:, self.corpora.index(self.name)]

    @property
    def formula(self) -> str:
        """What is minimised, in words."""
        what = {"min-max": "largest regret", "mean": "mean regret"}
        return f"least {what.get(self.name, f'regret of {self.name}')}: {FORMULA}"


def losses_of(points: Sequence[Point]) -> NDArray[np.float64]:
    """float64 [points, corpora]."""
    return np.array([point.losses for point in points], dtype=np.float64)


def regrets_of(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Loss less the least loss of any of the points on that corpus; float64 [points, corpora]."""
    return losses - losses.min(0)


def choose(points: Sequence[Point], objective: Objective, span: tuple[float, float]) -> int:
    """Which point minimises the objective, of those whose weights are all in the range `span`; of equal ones that of
    the least sum of |weights|, then the first by its weights."""
    values = objective.of(regrets_of(losses_of(points)))
    inside = [i for i, point in enumerate(points) if all(span[0] <= w <= span[1] for w in point.weights)]
    return min(inside, key=lambda i: (values[i], sum(map(abs, points[i].weights)), points[i].weights))


def front(losses: NDArray[np.float64]) -> list[bool]:
    """Whether a point is on the Pareto front: no other one is as good on every corpus and better on one."""
    as_good = np.all(losses[None, :, :] <= losses[:, None, :], axis=2)
    better = np.any(losses[None, :, :] < losses[:, None, :], axis=2)
    beaten: list[bool] = np.any(as_good & better, axis=1).tolist()
    return [not entry for entry in beaten]
