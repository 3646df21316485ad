"""DoRA: LoRA for the direction of every row of a matrix, and a number of its own for its length."""

from __future__ import annotations

from surgeon.adapters.kind import Kind, Scaling, lora_keys


def dora(*, rank: int = 16, alpha: float = 32.0, scaling: Scaling = "standard", dropout: float = 0.0) -> Kind:
    """As lora, with a magnitude for each output: W' = m (W + s B A) / |W + s B A| by rows; m starts as |W|.

    Source: Liu et al. 2024 (arXiv 2402.09353), equation 5, as PEFT has it.
    """
    return Kind("LORA", lora_keys(rank, alpha, scaling, dropout) | {"use_dora": True})
