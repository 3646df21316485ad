"""CorDA: the adapter starts as the part of a matrix that matters most, or least, for a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from surgeon.adapters.kind import Kind, Scaling, lora_keys

if TYPE_CHECKING:
    from torch import Tensor


def corda(
    *, rank: int = 16, alpha: float = 32.0, scaling: Scaling = "standard", dropout: float = 0.0,
    method: Literal["kpm", "ipm"] = "kpm",
) -> Kind:  # fmt: skip
    """s B A starts as a part of W, found by decomposing W C with the covariance C of its inputs on --probe, and the
    model keeps W - s B A; their sum is W up to the rounding of float32. method: kpm takes the smallest components, to
    keep what the text shows; ipm the largest, to learn more of it.

    Source: Yang et al. 2024 (arXiv 2406.05223), section 3, as PEFT has it.
    """
    from peft.tuners.lora.config import CordaConfig

    keys = lora_keys(rank, alpha, scaling, dropout) | {"init_lora_weights": "corda"}
    keys["corda_config"] = CordaConfig(corda_method=method)
    return Kind("LORA", keys, reads_text=True, changes_base=True, before=_start)


def _start(model: Any, config: Any, texts: Sequence[Tensor]) -> None:
    from peft.tuners.lora.corda import preprocess_corda

    def run() -> None:
        for ids in texts:
            model(input_ids=ids, use_cache=False)

    preprocess_corda(model, config, run_model=run)
