"""Random points of the convex hull of the old rows."""

from __future__ import annotations

import math

import numpy as np

from surgeon.errors import UsageError
from surgeon.vocab.hull import Combination
from surgeon.vocab.tokens import NewTokens

HULL = True
BATCH_INDEPENDENT = True


def convex_hull(new: NewTokens, seed: int, *, support: int = 64, concentration: float = 1.0) -> Combination:
    """Dirichlet(concentration) weights over `support` old rows drawn without replacement; each token for itself.

    Concentration 1 is uniform on the simplex; a large one approaches the mean of the support.
    Source: the hull condition of arXiv 2407.05841, section 3, without its training.
    """
    if not 1 <= support <= len(new.usable):
        raise UsageError(
            f"support={support} is not between 1 and the {len(new.usable)} usable rows", "--option support", "another"
        )
    if not 0 < concentration < math.inf:
        raise UsageError(
            f"concentration must be a number above zero, got {concentration}", "--option concentration", "try 1"
        )
    usable = np.asarray(new.usable)
    return Combination.of([_row(usable, s, support, concentration) for s in new.seeds(seed)])


def _row(usable: np.ndarray, seed: int, support: int, concentration: float) -> list[tuple[int, float]]:
    generator = np.random.Generator(np.random.Philox(seed))
    ids = np.sort(generator.choice(usable, size=support, replace=False))
    draws = generator.standard_gamma(concentration, size=support)
    if not draws.any():  # a tiny concentration can underflow everywhere; then its limit, one row, is meant
        draws[generator.integers(support)] = 1.0
    weights = draws / math.fsum(draws)
    return [(int(i), float(w)) for i, w in zip(ids, weights, strict=True) if w > 0]
