"""The weights of experts with their low-rank updates added, as PEFT keeps them: the ranks of all experts together."""

from __future__ import annotations

import torch
from torch import Tensor

COMPUTE = "float64"
AT_ROWS = (True,)
CHANGES = 0


def add_expert_lora(
    inputs: list[Tensor], rows: tuple[int, int] | None, *, scaling: float, experts: int, transposed: bool = False,
    expert: int | None = None, start: int = 0,
) -> Tensor:  # fmt: skip
    """W + scaling * B_e @ A_e in float64 of inputs [W, A, B]: A [experts * rank, in] expert by expert, B [out, rank *
    experts] rank by rank.

    W is that of all experts [experts, out, in] (transposed: [experts, in, out]), or with `expert` its own matrix
    [out, in], which begins at row `start` of what the expert has in transformers (gate and up are one there). rows:
    of W as stored, where it is not whole.
    Source: PEFT's ParamWrapper, which its LoRA on parameters of three dimensions is.
    """
    weight, a, b = inputs
    a_ERI = a.reshape(experts, -1, a.shape[1])
    b_ORE = b.reshape(b.shape[0], -1, experts)
    first, last = rows if rows is not None else (0, weight.shape[0])
    if expert is not None:
        return weight + (b_ORE[start + first : start + last, :, expert] @ a_ERI[expert]).mul_(scaling)
    parts = [b_ORE[:, :, e] @ a_ERI[e] for e in range(first, last)]
    return weight + torch.stack([part.T if transposed else part for part in parts]).mul_(scaling)
