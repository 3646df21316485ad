"""DARE, with the signs of TIES."""

from __future__ import annotations

from torch import Tensor

from surgeon.merge.methods._combine import elected
from surgeon.merge.methods._options import check_weights
from surgeon.merge.methods.dare_linear import Rescale, dropped, factors
from surgeon.merge.methods.dare_linear import facts as facts  # the same rescaling

ROWWISE = True


def dare_ties(
    base: Tensor,
    deltas: list[Tensor],
    weights: list[float],
    seed: int,
    start: int,
    facts: list[float] | float,
    *,
    scale: float = 1.0,
    density: float = 0.5,
    rescale: Rescale = "density",
    normalize: bool = False,
) -> Tensor:
    """base + scale x the sum of the deltas, dropped as by dare_linear, that have the sign of their total; float64.

    The total and the sum are weighted, rescaled as there. normalize: divided by the sum of the weights of those that
    agree; off by default, as in mergekit.
    Source: Yu et al. 2024, Language Models are Super Mario (arXiv 2311.03099), equation 2; signs: Yadav et al. 2023 (arXiv 2306.01708).
    """  # noqa: E501 - the source is one line
    check_weights(weights, normalize)
    changes = [
        dropped(delta, density, seed, number, start) * factor
        for number, (delta, factor) in enumerate(zip(deltas, factors(weights, facts), strict=True))
    ]
    return elected(base, changes, weights, scale, normalize)
