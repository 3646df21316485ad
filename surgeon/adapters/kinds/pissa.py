"""PiSSA: the adapter starts as the principal part of the matrix, which is taken out of the model."""

from __future__ import annotations

from surgeon.adapters.kind import Kind, Scaling, lora_keys


def pissa(
    *,
    rank: int = 16,
    alpha: float = 32.0,
    scaling: Scaling = "standard",
    dropout: float = 0.0,
) -> Kind:
    """s B A starts as the best approximation of W of this rank, and the model keeps W - s B A; their sum is W up to
    the rounding of float32. The full decomposition: PEFT draws a randomised one anew where it opens the folder.

    Source: Meng et al. 2024 (arXiv 2404.02948), section 3, as PEFT has it.
    """
    return Kind("LORA", lora_keys(rank, alpha, scaling, dropout) | {"init_lora_weights": "pissa"}, changes_base=True)
