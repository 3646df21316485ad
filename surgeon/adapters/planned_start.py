"""The first values of a LoRA as a plan: names and shapes are PEFT's own, found without any weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.adapters.peft_format import PREFIX
from surgeon.arch.configuration import settings_of
from surgeon.arch.family import Family
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.ops.plan import Apply, Copy, OutTensor, Source, Zeros, runs

ROWS = ".token_adapter.trainable_tokens_delta"


def planned_start(
    checkpoint: Checkpoint, family: Family, config: Any, rows: Mapping[str, list[int]]
) -> list[OutTensor]:
    """A uniform and B zero as PEFT has them, for an embedding A zero and B normal, new rows as they are in the model;
    all float32.

    PEFT wraps the model on the meta device, so that nothing is allocated, and says what its file would hold.
    """
    found = []
    for name, shape in tensors_of(checkpoint, config).items():
        source: Source
        if name.endswith(ROWS):
            source = _rows(checkpoint, family, name, rows)
        elif "lora_A" in name:
            source = Apply("kernel:kaiming_uniform")
        elif "lora_embedding_B" in name:
            source = Apply("kernel:standard_normal")
        elif "lora_B" in name or "lora_embedding_A" in name:
            source = Zeros()
        else:
            raise SurgeonError(f"PEFT adds {name!r}, which has no planned start", str(checkpoint.path), "report this")
        found.append(OutTensor(name, "F32", shape, source))
    return found


def tensors_of(checkpoint: Checkpoint, config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of adapter_model.safetensors for this model and configuration of PEFT."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(on_meta(checkpoint, config), save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def on_meta(checkpoint: Checkpoint, config: Any) -> Any:
    """The model with the adapter, neither of which has any weights."""
    import copy

    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from surgeon.loading import quiet

    with quiet():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings_of(checkpoint.config))
        try:
            return get_peft_model(model, copy.deepcopy(config), low_cpu_mem_usage=True)
        except (ValueError, TypeError, RuntimeError, KeyError, IndexError) as error:
            raise SurgeonError(
                f"PEFT cannot put the adapter on: {str(error).splitlines()[0]}",
                str(checkpoint.path),
                "choose other --targets, or another --kind",
            ) from error


def _rows(checkpoint: Checkpoint, family: Family, name: str, rows: Mapping[str, list[int]]) -> Source:
    module = name.removeprefix(PREFIX).removesuffix(ROWS)
    head = module.endswith(family.declaration.head) and family.head is not None and not family.tied
    tensor = family.head if head else family.embedding
    assert tensor is not None
    return Apply("kernel:take", (Copy("model", tensor),), {"runs": [list(run) for run in runs(rows[module])]})
