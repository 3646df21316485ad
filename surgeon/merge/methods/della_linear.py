"""DELLA's drop and rescale, then task arithmetic."""

from __future__ import annotations

from torch import Tensor

from surgeon.merge.methods._combine import summed, with_zeros_of
from surgeon.merge.methods.dare_linear import factors
from surgeon.merge.methods.della import Rescale, pruned
from surgeon.merge.methods.della import facts as facts  # the same rescaling

ROWWISE = True


def della_linear(
    base: Tensor,
    deltas: list[Tensor],
    weights: list[float],
    seed: int,
    start: int,
    facts: list[float] | float,
    *,
    scale: float = 1.0,
    density: float = 0.5,
    epsilon: float = 0.15,
    rescale: Rescale = "probability",
) -> Tensor:
    """base + scale x sum of weight x delta, dropped and rescaled as by della; float64.

    Source: Deep, Bhardwaj, Poria 2024, DELLA-Merging (arXiv 2406.11617), MAGPRUNE without the election of signs.
    """
    by_chance = rescale == "probability"
    kept = (pruned(delta, density, epsilon, seed, number, start, by_chance) for number, delta in enumerate(deltas))
    changes = zip(kept, factors([scale * weight for weight in weights], facts), strict=True)
    return with_zeros_of(base, summed(base, changes))
