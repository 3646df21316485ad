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
    adapter = _opened(folder)
    check_base(folder, Checkpoint.open(base))
    start = start_of(adapter)
    wrapped = _wrapped(model, folder, start is not None, is_trainable=trainable)
    if start is not None:
        _take_out(wrapped, start, set(adapter.tensors))
    return wrapped.eval()


def put_on_skeleton(skeleton: Any, folder: Path) -> Any | None:
    """The PEFT model of a model on the meta device (which it changes), trainable: names and shapes, without values.

    Raises what put_on raises of the adapter's folder and of names and shapes that do not fit the model; not what is
    known by the model's bytes (check_base). None for a kind that looks into values as soon as it is put on.
    """
    adapter = _opened(folder)
    try:
        return _wrapped(skeleton, folder, start_of(adapter) is not None, is_trainable=True, low_cpu_mem_usage=True)
    except SurgeonError as error:
        if isinstance(error.__cause__, NotImplementedError):  # torch has no such function without values
            return None
        raise


def _opened(folder: Path) -> Checkpoint:
    adapter = open_adapter(folder)
    check_adapter(adapter.config, str(folder / ADAPTER_CONFIG))
    return adapter


def _wrapped(model: Any, folder: Path, started: bool, **how: bool) -> Any:
    """started: its start lies beside it, so PEFT is to make none."""
    from peft import PeftConfig, PeftModel

    with quiet():
        try:
            config = PeftConfig.from_pretrained(str(folder))
            if started:
                config.init_lora_weights = True
            return PeftModel.from_pretrained(model, str(folder), config=config, **how)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            reason = next((line.strip() for line in str(error).split("\n") if line.strip()), type(error).__name__)
            raise SurgeonError(f"peft cannot load the adapter: {reason}", str(folder), "check the folder") from error


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
