"""Model Breadcrumbs: neither the largest nor the small changes, then task arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.merge.methods._combine import summed, with_zeros_of
from surgeon.merge.methods._options import check_density
from surgeon.merge.threshold import Cut, cuts, kept

ROWWISE = True


def facts(
    chunks: Callable[[], Iterator[list[Tensor]]],
    weights: list[float],
    whole: tuple[int, ...],
    *,
    density: float,
    gamma: float,
) -> list[list[Cut]]:
    """For each delta the edges of what is too large, and of what is large enough."""
    check_density(density)
    if not (0 <= gamma < 1 and density + gamma <= 1):
        raise UsageError(
            f"density={density} and gamma={gamma} are more than there is",
            "--option gamma",
            "the shares that are kept and that are cut off above sum to at most 1",
        )
    size = math.prod(whole)
    above = int(gamma * size)
    wanted = [[above, above + int(density * size)] for _ in weights]
    return cuts(lambda: (chunk[1:] for chunk in chunks()), size, wanted)


def breadcrumbs(
    base: Tensor,
    deltas: list[Tensor],
    weights: list[float],
    start: int,
    facts: list[list[Cut]],
    *,
    scale: float = 1.0,
    density: float = 0.9,
    gamma: float = 0.01,
) -> Tensor:
    """base + scale x sum of weight x (delta without its largest and its small elements), in float64.

    Without the `gamma` share of largest magnitude (outliers) the next `density` share is kept; per tensor, both counts
    rounded down.
    gamma + density may be at most 1: mergekit cuts less off above where it is more, and nothing at density=1, its
    default. Elements of equal magnitude at an edge count in the order of their position; mergekit compares in float32.
    gamma: mergekit's default; density: ours.
    Source: Davari, Belilovsky 2023, Model Breadcrumbs (arXiv 2312.06795), the layer-wise masks.
    """
    factors = [scale * weight for weight in weights]
    return with_zeros_of(base, summed(base, zip(between(deltas, start, facts), factors, strict=True)))


def between(deltas: list[Tensor], start: int, edges: list[list[Cut]]) -> list[Tensor]:
    """The deltas with zeros outside of their two edges."""
    return [
        torch.where(kept(delta, low, start) & ~kept(delta, high, start), delta, 0.0)
        for delta, (high, low) in zip(deltas, edges, strict=True)
    ]
