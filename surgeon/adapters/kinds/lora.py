"""LoRA: a low-rank update beside every chosen matrix; B starts at zero, so nothing changes at first."""

from __future__ import annotations

from typing import Literal

from surgeon.adapters.parts import Parts, Target
from surgeon.ops.plan import Apply, OutTensor, Zeros

PEFT_PREFIX = "base_model.model."


def lora(
    targets: list[Target],
    *,
    rank: int = 16,
    alpha: float = 32.0,
    scaling: Literal["standard", "rank-stabilized"] = "standard",
    dropout: float = 0.0,
) -> Parts:
    """lora_A [rank, in] uniform as PEFT has it, lora_B [out, rank] zero, both float32.

    The update is s B A with s = alpha / rank (standard) or alpha / sqrt(rank) (rank-stabilized).
    A rank above min(in, out) is allowed: it can represent any update of the matrix, and is more than it needs.
    Source: Hu et al. 2021 (arXiv 2106.09685); rank-stabilized: Kalajdzievski 2023 (arXiv 2312.03732).
    """
    tensors = []
    for target in targets:
        name = f"{PEFT_PREFIX}{target.module}"
        a = Apply("kernel:kaiming_uniform")
        tensors.append(OutTensor(f"{name}.lora_A.weight", "F32", (rank, target.num_in), a))
        tensors.append(OutTensor(f"{name}.lora_B.weight", "F32", (target.num_out, rank), Zeros()))
    whole = int(alpha) if float(alpha).is_integer() else alpha
    config = {
        "r": rank,
        "lora_alpha": whole,
        "lora_dropout": dropout,
        "use_rslora": scaling == "rank-stabilized",
    }
    return Parts(tuple(tensors), config)
