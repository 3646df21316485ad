"""EVA: A starts as the directions in which the inputs of a matrix vary most on a text; ranks go where they vary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from surgeon.adapters.kind import Kind, Scaling, lora_keys

if TYPE_CHECKING:
    from torch import Tensor


def eva(
    *, rank: int = 16, alpha: float = 32.0, scaling: Scaling = "standard", dropout: float = 0.0, rho: float = 2.0,
    tau: float = 0.99,
) -> Kind:  # fmt: skip
    """lora_A from the singular vectors of the inputs on --probe, lora_B zero, so nothing changes at first. The ranks
    of all modules together stay rank x modules; a module gets at most rho x rank of them, perhaps none. tau: how
    alike the vectors of two batches must be to have converged.

    Source: Paischer et al. 2024 (arXiv 2410.07170), section 3, as PEFT has it.
    """
    from peft import EvaConfig

    keys = lora_keys(rank, alpha, scaling, dropout) | {"init_lora_weights": "eva"}
    return Kind("LORA", keys | {"eva_config": EvaConfig(rho=rho, tau=tau)}, reads_text=True, after=_start)


def _start(model: Any, config: Any, texts: Sequence[Tensor]) -> None:
    import torch
    from peft import initialize_lora_eva_weights

    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in texts]
    initialize_lora_eva_weights(model, batches, show_progress_bar=False)
