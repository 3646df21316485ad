"""The points of a search in the order in which they are evaluated: a grid, what to compare with, refinements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from surgeon.search.objective import Kind, Objective, Point, choose
from surgeon.search.surface import propose

Weights = tuple[float, ...]
Losses = tuple[float, ...]


@dataclass(frozen=True)
class Space:
    """`vectors` weights from low to high, `grid` of them each at first, both ends included."""

    vectors: int
    low: float
    high: float
    grid: int

    @property
    def spacing(self) -> float:
        return (self.high - self.low) / (self.grid - 1)

    def at_first(self) -> Iterator[tuple[Weights, Kind]]:
        """The grid; then what is not on it of the reference (all weights 0), each vector alone at 1, and all at 1."""
        axis = [self.low, *(round(self.low + i * self.spacing, 6) for i in range(1, self.grid - 1)), self.high]
        seen = set()
        for weights in product(axis, repeat=self.vectors):
            seen.add(weights)
            yield weights, "grid"
        for weights in compared(self.vectors):
            if weights not in seen:
                yield weights, "compared"


def compared(vectors: int) -> list[Weights]:
    """What every search is compared with: the reference, each vector alone at 1, all of them at 1."""
    alone = [tuple(float(i == j) for j in range(vectors)) for i in range(vectors)]
    return list(dict.fromkeys([(0.0,) * vectors, *alone, (1.0,) * vectors]))


def search(
    evaluate: Callable[[Weights], Losses],
    space: Space,
    objective: Objective,
    rounds: int,
    advance: Callable[[int], None] = lambda amount: None,
) -> list[Point]:
    """All points that were evaluated, each once, in order. evaluate: the losses at some weights, in nats per token.

    Every round proposes the minimum of the objective on quadratic surfaces through the evaluated points near the best
    one and evaluates it; it ends early where that point was evaluated before. advance: called after each.
    """
    points: list[Point] = []

    def add(weights: Weights, kind: Kind) -> None:
        points.append(Point(weights, evaluate(weights), kind))
        advance(1)

    for weights, kind in space.at_first():
        add(weights, kind)
    span = (space.low, space.high)
    for _ in range(rounds):
        best = points[choose(points, objective, span)]
        proposed = propose(points, best, objective, span, space.spacing)
        if any(point.weights == proposed for point in points):
            break
        add(proposed, "refined")
    return points
