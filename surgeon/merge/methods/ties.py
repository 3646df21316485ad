"""TIES: trim small changes, elect a sign, average what agrees with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torch import Tensor

from surgeon.merge.methods._combine import elected
from surgeon.merge.methods._options import check_density, check_weights
from surgeon.merge.threshold import Cut, cuts, kept

ROWWISE = True


def facts(
    chunks: Callable[[], Iterator[list[Tensor]]], weights: list[float], whole: tuple[int, ...], *, density: float
) -> list[Cut]:
    """Where each delta is trimmed."""
    check_density(density)
    size = math.prod(whole)
    keep = max(1, int(density * size))
    return [cut for (cut,) in cuts(lambda: (chunk[1:] for chunk in chunks()), size, [[keep] for _ in weights])]


def ties(
    base: Tensor,
    deltas: list[Tensor],
    weights: list[float],
    start: int,
    facts: list[Cut],
    *,
    scale: float = 1.0,
    density: float = 0.2,
    normalize: bool = True,
) -> Tensor:
    """base + scale x the merged delta: of every delta the `density` share of largest magnitude is kept (per tensor).

    The sign of an element is that of the weighted sum (zero counts as positive); only deltas of that sign count.
    normalize: divide by the sum of their weights (the paper's disjoint mean). Elements of equal magnitude at the
    edge of the trim are kept in the order of their position; mergekit compares magnitudes in float32 and leaves it
    open which of equal ones it keeps. float64.
    Source: Yadav et al. 2023, TIES-Merging (arXiv 2306.01708), algorithm 1; trimmed per tensor as in mergekit.
    """
    check_weights(weights, normalize)
    trimmed = [
        delta * kept(delta, cut, start) * weight for delta, weight, cut in zip(deltas, weights, facts, strict=True)
    ]
    return elected(base, trimmed, weights, scale, normalize)
