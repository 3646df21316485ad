"""Rounding up or down at random, so that what is smaller than half a step of the stored type survives on average."""

from __future__ import annotations

from torch import Tensor

COMPUTE = "float64"
ROWWISE = True


def stochastic(
    inputs: list[Tensor], seed: int, rows: tuple[int, int] | None, whole: tuple[int, ...], *, dtype: str
) -> Tensor:
    """inputs[0] on the grid of the stored type `dtype` (a safetensors code): of its two neighbours x < v < y there, y
    with the probability (v - x) / (y - x); float64. What the type holds exactly stays.

    The draw belongs to the element's place in the tensor (`whole`: its shape), so pieces give the same bytes.
    """
    import math

    from surgeon.checkpoint.reader import TORCH
    from surgeon.checkpoint.rounding import round_stochastically, uniform_at

    (values,) = inputs
    per_row = math.prod(whole[1:])
    start = rows[0] * per_row if rows is not None else 0
    drawn = uniform_at(seed, start, values.numel()).reshape(values.shape)
    return round_stochastically(values, TORCH[dtype], drawn).double()
