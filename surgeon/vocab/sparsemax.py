"""Sparsemax: the point of the probability simplex that is nearest to a vector of scores."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def sparsemax(scores_K: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(ascending positions [S], their weights [S] > 0, which sum to 1): argmin over the simplex of |p - scores|.

    Exact, by sorting. Only scores within 1 of the greatest can have weight (the threshold is at least that one
    minus 1), so only these are sorted. float64; the scores must be finite and at least one.
    Source: Martins and Astudillo 2016, From Softmax to Sparsemax, algorithm 1.
    """
    top = scores_K.max()
    near = np.flatnonzero(scores_K > top - 1)
    held = scores_K[near] - top  # shifting all scores shifts the threshold alone
    order = np.sort(held)[::-1]
    excess = np.cumsum(order) - 1
    count = np.arange(1, len(order) + 1)
    size = int(np.flatnonzero(count * order > excess)[-1]) + 1
    weights = held - excess[size - 1] / size
    support = weights > 0
    weights = weights[support]
    return near[support], weights / math.fsum(weights)
