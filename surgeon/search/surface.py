"""A quadratic surface through the losses near the best point, and where the objective is least on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from surgeon.search.objective import Objective, Point, losses_of

Array = NDArray[np.float64]
DECIMALS = 3  # of proposed weights: finer ones make no difference that the texts could show
LATTICE, ZOOMS = 21, 4  # points a side of the lattice on which the surface is minimised, and how often it is narrowed


@dataclass(frozen=True)
class Surface:
    """c + b x + x A x of x = (w - centre) / scale for every corpus. coefficients: float64 [terms, corpora]."""

    centre: Array
    scale: float
    coefficients: Array

    def __call__(self, weights: Array) -> Array:
        """Losses float64 [points, corpora] at weights float64 [points, vectors]."""
        found: Array = _terms((weights - self.centre) / self.scale) @ self.coefficients
        return found


def fit(points: Sequence[Point], centre: Sequence[float], scale: float) -> Surface:
    """Least squares over the points, one surface a corpus.

    Source: Box and Wilson 1951, On the Experimental Attainment of Optimum Conditions (J. R. Stat. Soc. B 13).
    """
    middle = np.asarray(centre, dtype=np.float64)
    terms = _terms((_weights(points) - middle) / scale)
    coefficients: Array = np.linalg.lstsq(terms, losses_of(points), rcond=None)[0].astype(np.float64)
    return Surface(middle, scale, coefficients)


def propose(
    points: Sequence[Point], best: Point, objective: Objective, span: tuple[float, float], spacing: float
) -> tuple[float, ...]:
    """Where the objective is least by the surfaces through the points near the best one, to three decimals, in the
    range `span` and not farther from the best than the points that were fitted: a surface says nothing beyond them."""
    near, reach = nearest(points, best, spacing)
    surface = fit(near, best.weights, spacing)
    least = losses_of(points).min(0)
    low = np.maximum(np.asarray(best.weights) - reach, span[0])
    high = np.minimum(np.asarray(best.weights) + reach, span[1])
    first, last = low, high
    at = np.asarray(best.weights)
    for _ in range(ZOOMS):
        lattice = _lattice(first, last)
        # of equal values that of the least weights, as in the choice among evaluated points; what differs in the
        # last digits of the fit is equal
        values = np.round(objective.of(surface(lattice) - least), 10)
        at = lattice[np.lexsort((np.abs(lattice).sum(1), values))[0]]
        cell = (last - first) / (LATTICE - 1)
        first, last = np.maximum(at - 1.5 * cell, low), np.minimum(at + 1.5 * cell, high)
    return tuple(float(min(max(round(w, DECIMALS), span[0]), span[1])) + 0.0 for w in at.tolist())


def nearest(points: Sequence[Point], best: Point, spacing: float) -> tuple[list[Point], float]:
    """The points in the smallest box around the best one, one grid spacing to each side or more, that determine a
    quadratic surface; and how far the box reaches. All points always do."""
    offsets = np.abs(_weights(points) - np.asarray(best.weights)).max(1)
    reach = spacing
    while True:
        near = [point for point, offset in zip(points, offsets, strict=True) if offset <= reach * (1 + 1e-9)]
        terms = _terms((_weights(near) - np.asarray(best.weights)) / spacing)
        if len(near) == len(points) or np.linalg.matrix_rank(terms) == terms.shape[1]:
            return near, reach
        reach += spacing / 2


def _weights(points: Sequence[Point]) -> Array:
    return np.array([point.weights for point in points], dtype=np.float64)


def _terms(x: Array) -> Array:
    """1, x_i and x_i x_j of each row of x [points, vectors]."""
    pairs = combinations_with_replacement(range(x.shape[1]), 2)
    columns = [np.ones(len(x)), *x.T, *(x[:, i] * x[:, j] for i, j in pairs)]
    return np.stack(columns, axis=1)


def _lattice(low: Array, high: Array) -> Array:
    axes = [np.linspace(a, b, LATTICE) for a, b in zip(low, high, strict=True)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
