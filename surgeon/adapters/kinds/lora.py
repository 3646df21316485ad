"""LoRA: a low-rank update beside every chosen matrix; B starts at zero, so nothing changes at first."""

from __future__ import annotations

from surgeon.adapters.kind import Kind, Scaling, lora_keys


def lora(*, rank: int = 16, alpha: float = 32.0, scaling: Scaling = "standard", dropout: float = 0.0) -> Kind:
    """lora_A [rank, in] uniform as PEFT has it, lora_B [out, rank] zero, both float32.

    The update is s B A with s = alpha / rank (standard) or alpha / sqrt(rank) (rank-stabilized).
    A rank above min(in, out) is allowed: it can represent any update of the matrix, and is more than it needs.
    Source: Hu et al. 2021 (arXiv 2106.09685); rank-stabilized: Kalajdzievski 2023 (arXiv 2312.03732).
    """
    return Kind("LORA", lora_keys(rank, alpha, scaling, dropout), planned=True)
