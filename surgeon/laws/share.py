"""The share to train at, read off predicted curves over the share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from surgeon.laws.law import Array

GRID = 10_001  # shares that are looked at: one in ten thousand
HALVINGS = 50  # of the interval between two of them


def largest_share(general: Callable[[Array], Array], bound: float) -> float | None:
    """The largest share in [0, 1] with general(share) <= bound; None where there is none.

    The curve is not assumed to rise: it is looked through from 1 downwards, and the last step is halved. A share of 1
    that holds the bound alone is not taken (see _joined).
    """
    shares = np.linspace(0.0, 1.0, GRID)
    within = np.flatnonzero(_joined(shares, general(shares) <= bound))
    if not len(within):
        return None
    last = int(within[-1])
    if last == GRID - 1:
        return 1.0
    low, high = float(shares[last]), float(shares[last + 1])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if general(np.array([middle]))[0] <= bound else (low, middle)
    return low


def least_domain(domain: Callable[[Array], Array], allowed: Callable[[Array], NDArray[np.bool_]]) -> float | None:
    """The share in (0, 1] of the least domain loss among those that `allowed` (bool [points]) lets through; of equal
    losses the largest share. None where it lets none through. A share of 1 that is let through alone is not taken (see
    _joined)."""
    low, high, best = 1 / (GRID - 1), 1.0, None
    for _ in range(3):
        shares = np.linspace(low, high, GRID - 1)
        losses = np.where(_joined(shares, allowed(shares)), domain(shares), np.inf)
        if not np.isfinite(losses).any():
            return best
        best = float(shares[np.flatnonzero(losses == losses.min())[-1]])
        step = (high - low) / (GRID - 2)
        low, high = max(low, best - step), min(high, best + step)
    return best


def _joined(shares: Array, within: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`within` without a share of 1 whose neighbour is not: a power of the share of general text with a small exponent
    is near one for every share that a training can have, and 0 for none, so the curve falls off its end."""
    if shares[-1] == 1.0 and within[-1] and not within[-2]:
        return np.append(within[:-1], False)
    return within
