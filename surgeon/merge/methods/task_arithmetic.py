"""Task arithmetic: the base and a weighted sum of task vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ROWWISE = True
LINEAR = True  # with one delta at weight * scale = 1 the result is that model, exactly


def task_arithmetic(base: Tensor, deltas: list[Tensor], weights: list[float], *, scale: float = 1.0) -> Tensor:
    """base + scale x sum of weight x delta, elementwise in float64, in the order given.

    Each product delta x (scale x weight) is rounded before it is added: no fused multiply-add, so the bits are those
    of any IEEE arithmetic. Where nothing changes the base's zero keeps its sign. mergekit sums the products first and
    multiplies by lambda last: the same to a few units in the last place.
    Source: Ilharco et al. 2023, Editing Models with Task Arithmetic (arXiv 2212.04089), section 2.
    """
    from surgeon.merge.methods._combine import summed

    return summed(base, zip(deltas, weighted_sum(weights, scale=scale), strict=True))


def weighted_sum(weights: list[float], *, scale: float = 1.0) -> list[float]:
    """The factors of the deltas: all that there is to the method, so that it needs no torch."""
    return [scale * weight for weight in weights]
