"""OLoRA: the adapter starts as orthonormal columns of the matrix, which are taken out of the model."""

from __future__ import annotations

from surgeon.adapters.kind import Kind, Scaling, lora_keys


def olora(*, rank: int = 16, alpha: float = 32.0, scaling: Scaling = "standard", dropout: float = 0.0) -> Kind:
    """B and A start as the first columns of Q and rows of R of W = Q R, and the model keeps W - s B A; their sum is W
    up to the rounding of float32.

    Source: Bueyuekakyuez 2024 (arXiv 2406.01775), algorithm 1, as PEFT has it.
    """
    return Kind("LORA", lora_keys(rank, alpha, scaling, dropout) | {"init_lora_weights": "olora"}, changes_base=True)
