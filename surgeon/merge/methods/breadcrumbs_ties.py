"""Model Breadcrumbs, with the signs of TIES."""

from __future__ import annotations

from torch import Tensor

from surgeon.merge.methods._combine import elected
from surgeon.merge.methods._options import check_weights
from surgeon.merge.methods.breadcrumbs import between
from surgeon.merge.methods.breadcrumbs import facts as facts  # the same edges
from surgeon.merge.threshold import Cut

ROWWISE = True


def breadcrumbs_ties(
    base: Tensor,
    deltas: list[Tensor],
    weights: list[float],
    start: int,
    facts: list[list[Cut]],
    *,
    scale: float = 1.0,
    density: float = 0.9,
    gamma: float = 0.01,
    normalize: bool = False,
) -> Tensor:
    """base + scale x the sum of the deltas, masked as by breadcrumbs, that have the sign of their total; float64.

    The total and the sum are weighted. normalize: divided by the sum of the weights of those that agree. It is
    mergekit's composition of the two papers. Defaults as for breadcrumbs, and mergekit's for normalize.
    Source: Davari, Belilovsky 2023, Model Breadcrumbs (arXiv 2312.06795), the layer-wise masks; signs: Yadav et al. 2023 (arXiv 2306.01708).
    """  # noqa: E501 - the source is one line
    check_weights(weights, normalize)
    changes = [delta * weight for delta, weight in zip(between(deltas, start, facts), weights, strict=True)]
    return elected(base, changes, weights, scale, normalize)
