"""DARE: drop changes at random, rescale the rest, then task arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from surgeon.merge.draws import uniform
from surgeon.merge.methods._combine import summed, with_zeros_of
from surgeon.merge.methods._options import check_density
from surgeon.merge.methods._sums import by_row, total

ROWWISE = True
Rescale = Literal["density", "l1", "none"]


def facts(
    chunks: Callable[[], Iterator[list[Tensor]]], seed: int, *, density: float, rescale: Rescale
) -> list[float] | float:
    """What the kept changes are divided by: for each delta where it depends on them."""
    check_density(density)
    if rescale == "l1":
        return l1_shares(chunks, lambda delta, number, start: dropped(delta, density, seed, number, start))
    return density if rescale == "density" else 1.0


def dare_linear(
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
) -> Tensor:
    """base + scale x sum of weight x (delta kept with probability `density`) / density, in float64.

    The random numbers come from the counter-based Philox generator with the key (tensor's seed, number of the
    model): the same whatever the chunks, the threads or the order of the tensors. rescale: by the paper's 1/density;
    l1, mergekit's: to the L1 norm of the whole delta (equal in expectation only; mergekit does it in float32, and not
    where a norm is below 1e-7); none. density: the paper has no one value (it drops up to 0.9 and more), 0.5 is ours.
    Source: Yu et al. 2024, Language Models are Super Mario (arXiv 2311.03099), equation 2.
    """
    kept = (dropped(delta, density, seed, number, start) for number, delta in enumerate(deltas))
    changes = zip(kept, factors([scale * weight for weight in weights], facts), strict=True)
    return with_zeros_of(base, summed(base, changes))


def dropped(delta: Tensor, density: float, seed: int, number: int, start: int) -> Tensor:
    """The delta of model `number` where it is kept, 0 elsewhere."""
    drawn = uniform(seed, number, start, delta.numel()).reshape(delta.shape)
    return torch.where(drawn < density, delta, 0.0)


def factors(weights: list[float], divisors: list[float] | float) -> list[float]:
    """Each weight over its divisor."""
    each = divisors if isinstance(divisors, list) else [divisors] * len(weights)
    return [weight / divisor for weight, divisor in zip(weights, each, strict=True)]


def l1_shares(chunks: Callable[[], Iterator[list[Tensor]]], drop: Callable[[Tensor, int, int], Tensor]) -> list[float]:
    """Each delta's L1 norm of what drop(delta, number, start) keeps, over that of all; 1 where nothing is kept."""
    held: list[tuple[list[float], list[float]]] = []
    start = 0
    for base, *deltas in chunks():
        held = held or [([], []) for _ in deltas]
        for number, delta in enumerate(deltas):
            held[number][0].extend(by_row(drop(delta, number, start).abs()))
            held[number][1].extend(by_row(delta.abs()))
        start += base.numel()
    norms = [(total(after), total(before)) for after, before in held]
    return [after / before if after > 0 else 1.0 for after, before in norms]
