"""Task arithmetic: the base and a weighted sum of task vectors."""

from __future__ import annotations

from torch import Tensor

ROWWISE = True
LINEAR = True  # with one delta at weight * scale = 1 the result is that model, exactly


def task_arithmetic(base: Tensor, deltas: list[Tensor], weights: list[float], *, scale: float = 1.0) -> Tensor:
    """base + scale x sum of weight x delta, elementwise in float64, in the order given.

    Source: Ilharco et al. 2023, Editing Models with Task Arithmetic (arXiv 2212.04089), section 2.
    """
    merged = base.clone()
    for delta, weight in zip(deltas, weights, strict=True):
        merged.add_(delta, alpha=scale * weight)
    return merged
