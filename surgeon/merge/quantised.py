"""Weights that are codes, not numbers: they cannot be added up, and are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError

# endings of the names under which quantised layers store their codes and scales
_CODES = (
    "qweight",
    "qzeros",
    "g_idx",
    "weight_scale",
    "weight_scale_inv",
    "weight_packed",
    "SCB",
    "absmax",
    "quant_map",
)


def refuse_quantised(checkpoint: Checkpoint, name: str) -> None:
    """Raises SurgeonError on a checkpoint whose configuration or tensors say that it is quantised."""
    told = _method(checkpoint.config.get("quantization_config"))
    held = next((n for n in checkpoint.tensors if n.rpartition(".")[2] in _CODES), None)
    eight = next((t for t in checkpoint.tensors.values() if t.dtype.startswith("F8")), None)
    if told is None and held is None and eight is None:
        return
    how = told or (f"the tensor {held}" if held else f"{eight.name} is {eight.dtype}" if eight else "")
    raise SurgeonError(
        f"{name} is quantised ({how}): its codes mean nothing without their scales, and cannot be added up",
        str(checkpoint.path),
        "give the checkpoint in bfloat16 or float32, and quantise the merged model",
    )


def _method(config: Any) -> str | None:
    """ "fp8", "gptq 4-bit", ... from a quantization_config; None where there is none."""
    if not isinstance(config, Mapping) or not config:
        return None
    bits = config.get("bits") or (4 if config.get("load_in_4bit") else 8 if config.get("load_in_8bit") else None)
    method = str(config.get("quant_method", "quantised"))
    return f"{method} {bits}-bit" if bits else method
