"""A weight with a low-rank update folded in."""

from __future__ import annotations

from torch import Tensor

COMPUTE = "float64"
ROWWISE = False  # A is needed whole for every row, and has rows of its own


def add_lora(inputs: list[Tensor], *, scaling: float, transposed: bool = False) -> Tensor:
    """W + scaling * B @ A in float64, of inputs [W, A, B]: W [out, in], A [rank, in], B [out, rank].

    transposed: W is stored [in, out] (GPT-2's Conv1D).
    Source: Hu et al. 2021, LoRA (arXiv 2106.09685), equation 3.
    """
    weight, a, b = inputs
    delta = (b @ a).mul_(scaling)
    return weight + (delta.T if transposed else delta)
