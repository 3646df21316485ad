"""How sure a ranking of blocks is: documents drawn anew with replacement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """scores, low, high: float64 [L]; of all documents, and the ends of the interval of the resamples. chosen: the
    share of the resamples in which a block is among the chosen ones."""

    scores: Float
    low: Float
    high: Float
    chosen: Float


def bootstrap(
    sums_DL: Float, tokens_D: Float, count: int, sign: float, resamples: int, level: float, seed: int
) -> Interval:
    """A score is the sum over documents divided by their tokens; the `count` blocks with the least sign * score (ties:
    the lower block) are chosen. Percentile intervals; draws from Philox keyed by the seed.

    Source: Efron 1979, the percentile interval of Efron and Tibshirani 1993, chapter 13.
    """
    num_documents, depth = sums_DL.shape
    scores = sums_DL.sum(0) / tokens_D.sum()
    generator = np.random.Generator(np.random.Philox(key=seed))
    drawn_RD = generator.multinomial(num_documents, np.full(num_documents, 1 / num_documents), size=resamples)
    scores_RL = (drawn_RD @ sums_DL) / (drawn_RD @ tokens_D)[:, None]
    tail = (1 - level) / 2
    low, high = np.quantile(scores_RL, [tail, 1 - tail], axis=0)
    chosen = np.zeros(depth)
    for row in scores_RL:
        chosen[first(row, count, sign)] += 1 / resamples
    return Interval(scores, low, high, chosen)


def first(scores_L: Float, count: int, sign: float) -> list[int]:
    """The `count` blocks with the least sign * score, ascending by number."""
    return sorted(int(b) for b in np.argsort(sign * scores_L, kind="stable")[:count])
