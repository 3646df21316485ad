"""DELLA: drop changes at random, small ones more often, rescale the rest, elect a sign, average what agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.merge.draws import uniform
from surgeon.merge.methods._combine import elected
from surgeon.merge.methods._options import check_weights
from surgeon.merge.methods.dare_linear import factors, l1_shares

ROWWISE = True
Rescale = Literal["probability", "l1", "none"]


def facts(
    chunks: Callable[[], Iterator[list[Tensor]]], seed: int, *, density: float, epsilon: float, rescale: Rescale
) -> list[float] | float:
    """What the kept changes are divided by, beyond their own probability: for each delta where it depends on them."""
    if not (0 <= epsilon < density and density + epsilon <= 1):
        raise UsageError(
            f"density={density} with epsilon={epsilon} leaves (0, 1]",
            "--option epsilon",
            "elements are kept with probabilities from density - epsilon to density + epsilon",
        )
    if rescale != "l1":
        return 1.0
    return l1_shares(chunks, lambda delta, number, start: pruned(delta, density, epsilon, seed, number, start))


def della(
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
    normalize: bool = True,
) -> Tensor:
    """base + scale x the mean of the deltas, dropped and rescaled, that have the sign of their total; float64.

    The total and the mean are weighted; normalize=false: the sum in place of the mean.

    An element is kept with a probability that grows with the rank of its magnitude within its row (the last dimension;
    a vector is one row), evenly from density - epsilon to density + epsilon; of equal magnitudes the later one ranks
    higher. rescale: each by 1/probability, as in the paper; l1, mergekit's: to the L1 norm of the whole delta; none.
    Ranks, probabilities and rescaling are those of the authors' code (declare-lab/della). mergekit works in float32,
    ranks tensors of three and more dimensions along the second one, and drops nothing at density=1, whatever epsilon.
    epsilon: mergekit's default, half of what the authors call window_size; density: ours (they show 0.7 with an
    epsilon of 0.07).
    Source: Deep, Bhardwaj, Poria 2024, DELLA-Merging (arXiv 2406.11617), MAGPRUNE, elect, fuse.
    """
    check_weights(weights, normalize)
    by_chance = rescale == "probability"
    changes = [
        pruned(delta, density, epsilon, seed, number, start, by_chance) * factor
        for number, (delta, factor) in enumerate(zip(deltas, factors(weights, facts), strict=True))
    ]
    return elected(base, changes, weights, scale, normalize)


def pruned(
    delta: Tensor, density: float, epsilon: float, seed: int, number: int, start: int, divide: bool = False
) -> Tensor:
    """The delta of model `number` where it is kept, 0 elsewhere. divide: by the probability of that."""
    chance = chances(delta, density, epsilon)
    drawn = uniform(seed, number, start, delta.numel()).reshape(delta.shape)
    return torch.where(drawn < chance, delta / chance if divide else delta, 0.0)


def chances(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """The probability to keep each element: density alone where a row has one element."""
    num = delta.shape[-1] if delta.dim() else 1
    if num == 1:
        return torch.full_like(delta, density)
    order = torch.argsort(delta.abs(), dim=-1, stable=True)
    ranks = torch.empty_like(order).scatter_(-1, order, torch.arange(num).expand_as(order))
    return (density - epsilon) + ranks.to(delta.dtype) / (num - 1) * (2 * epsilon)
