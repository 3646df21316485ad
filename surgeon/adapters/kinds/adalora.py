"""AdaLoRA: the update as B diag(E) A, so that single ranks can be dropped."""

from __future__ import annotations

from surgeon.adapters.kind import Kind


def adalora(*, rank: int = 16, alpha: float = 32.0, dropout: float = 0.0, steps: int = 1) -> Kind:
    """As lora with a vector E between the factors, which starts at zero, so nothing changes at first.

    cpt trains all ranks: it does not call PEFT's allocator, which moves ranks between modules during a run of `steps`
    steps. Source: Zhang et al. 2023 (arXiv 2303.10512), equation 3, as PEFT has it.
    """
    whole = int(alpha) if float(alpha).is_integer() else alpha
    keys = {"init_r": rank, "target_r": rank, "lora_alpha": whole, "lora_dropout": dropout, "total_step": steps}
    return Kind("ADALORA", keys)
