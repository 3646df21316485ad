"""PiSSA: the adapter starts as the principal part of the matrix, which is taken out of the model."""

from __future__ import annotations

from surgeon.adapters.kind import Kind, Scaling, lora_keys


def pissa(
    *,
    rank: int = 16,
    alpha: float = 32.0,
    scaling: Scaling = "standard",
    dropout: float = 0.0,
    niter: int | None = None,
) -> Kind:
    """s B A starts as the best approximation of W of this rank, and the model keeps W - s B A; their sum is W up to
    the rounding of float32. niter: iterations of a randomised decomposition instead of the full one.

    Source: Meng et al. 2024 (arXiv 2404.02948), section 3, as PEFT has it.
    """
    init = "pissa" if niter is None else f"pissa_niter_{niter}"
    return Kind("LORA", lora_keys(rank, alpha, scaling, dropout) | {"init_lora_weights": init}, changes_base=True)
