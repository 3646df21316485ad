"""SCE: select elements on which models differ, calculate weights from the changes there, erase minorities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.merge.methods._combine import agreeing, with_zeros_of
from surgeon.merge.methods._options import check_unweighted
from surgeon.merge.methods._sums import by_row, total
from surgeon.merge.threshold import Cut, cuts, kept

ROWWISE = True
EVERY_DELTA = True  # the variance is over all models
Deltas = Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Selected:
    """cut: the edge of the variances that are selected, None for all. shares: each model's weight; their sum is 1."""

    cut: Cut | None
    shares: list[float]


def facts(
    chunks: Callable[[], Iterator[list[Tensor]]], weights: list[float], whole: tuple[int, ...], *, select_topk: float
) -> Selected:
    if not 0 < select_topk <= 1:
        raise UsageError(f"select_topk={select_topk} is not in (0, 1]", "--option select_topk", "1 selects everything")
    check_unweighted("sce", weights, 1 if select_topk == 1 else 2)
    cut = None
    if select_topk < 1:
        varying = sum(int(torch.count_nonzero(_variance(chunk[1:]))) for chunk in chunks())
        wanted = [[int(varying * select_topk)]]
        ((cut,),) = cuts(lambda: ([_variance(chunk[1:])] for chunk in chunks()), math.prod(whole), wanted)
    rows: list[list[float]] = [[] for _ in weights]
    start = 0
    for base, *deltas in chunks():
        for held, delta in zip(rows, _selected(deltas, cut, start), strict=True):
            held.extend(by_row(delta * delta))
        start += base.numel()
    energies = [total(held) for held in rows]
    whole_energy = sum(energies)
    return Selected(cut, [e / whole_energy if whole_energy > 0 else 1 / len(energies) for e in energies])


def sce(
    base: Tensor, deltas: list[Tensor], weights: list[float], start: int, facts: Selected, *, select_topk: float = 1.0
) -> Tensor:
    """base + the weighted mean of those of the deltas that have the sign of their sum, elementwise in float64.

    Only the select_topk share (of those that vary at all) of the elements whose variance over the models is largest is
    merged. A model's weight is the sum of the squares of its selected changes over that of all, per tensor: given
    weights are refused. mergekit takes equal weights where the mean squares sum to less than 1e-6 (changes as small as
    fine-tuning often makes), and a sum of agreeing weights for at least 1e-6; here only a sum of 0 is special.
    select_topk: 1 is mergekit's default.
    Source: Wan et al. 2024, FuseChat (arXiv 2408.07990), SCE: select, calculate, erase.
    """
    selected = _selected(deltas, facts.cut, start)
    found, divisor = torch.zeros_like(base), torch.zeros_like(base)
    for delta, share, agrees in zip(selected, facts.shares, agreeing(selected), strict=True):
        found += torch.where(agrees, delta * share, 0.0)
        divisor += agrees.to(base.dtype) * share
    return with_zeros_of(base, base + found / torch.where(divisor == 0, 1.0, divisor))


def _variance(deltas: Deltas) -> Tensor:
    """Over the models, from differences to the first one: exactly 0 where all are equal."""
    apart = [delta - deltas[0] for delta in deltas]
    mean = torch.zeros_like(deltas[0])
    for difference in apart:
        mean += difference
    mean /= len(deltas)
    squares = torch.zeros_like(mean)
    for difference in apart:
        squares += (difference - mean) * (difference - mean)
    return squares / len(deltas)


def _selected(deltas: Deltas, cut: Cut | None, start: int) -> Deltas:
    if cut is None:
        return deltas
    mask = kept(_variance(deltas), cut, start)
    return [torch.where(mask, delta, 0.0) for delta in deltas]
