"""A loaded model with an adapter on it, through PEFT; what its kind took out of the model's weights is taken out."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from surgeon.adapters.base_check import check_base
from surgeon.adapters.peft_format import PREFIX, open_adapter
from surgeon.adapters.refusals import check_adapter
from surgeon.adapters.start_file import start_of
from surgeon.checkpoint.index import ADAPTER_CONFIG, Checkpoint
from surgeon.errors import SurgeonError
from surgeon.loading import quiet


def put_on(model: Any, base: Path, folder: Path, *, trainable: bool = False) -> Any:
    """The PEFT model, in eval mode. Raises SurgeonError on an adapter of another base (by lineage and by shapes), and
    on one that has lost its start.

    Kinds that take their first update out of the weights (pissa, olora, corda) are rebuilt from the start kept beside
    the adapter: PEFT would decompose the weights once more, and cannot for corda.
    """
    from peft import PeftConfig, PeftModel

    adapter = open_adapter(folder)
    check_adapter(adapter.config, str(folder / ADAPTER_CONFIG))
    check_base(folder, Checkpoint.open(base))
    start = start_of(adapter)
    with quiet():
        try:
            config = PeftConfig.from_pretrained(str(folder))
            if start is not None:
                config.init_lora_weights = True
            wrapped = PeftModel.from_pretrained(model, str(folder), config=config, is_trainable=trainable)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            reason = next((line.strip() for line in str(error).split("\n") if line.strip()), type(error).__name__)
            raise SurgeonError(f"peft cannot load the adapter: {reason}", str(folder), "check the folder") from error
    if start is not None:
        _take_out(wrapped, start, set(adapter.tensors))
    return wrapped.eval()


def _take_out(wrapped: Any, start: Path, names: Collection[str]) -> None:
    """W - s B0 A0 in the modules of the model, in its own type; a matrix that the adapter holds (`names`: its tensors)
    is that already."""
    import torch
    from safetensors.torch import load_file

    held = load_file(start / "adapter_model.safetensors")
    with torch.no_grad():
        for name, a in held.items():
            module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            if not name.endswith(".lora_A.weight") or f"{PREFIX}{module}.base_layer.weight" in names:
                continue
            layer = wrapped.base_model.model.get_submodule(module)
            weight = layer.get_base_layer().weight
            update = (held[name.replace(".lora_A.", ".lora_B.")].double() @ a.double()) * layer.scaling["default"]
            update = update.T if getattr(layer, "fan_in_fan_out", False) else update
            weight.copy_((weight.double() - update.to(weight.device)).to(weight.dtype))
