"""What an adapter started as, kept beside it as a PEFT folder of its own (surgeon/start).

Kinds that take their first update out of the model's own weights (base - s B0 A0) mean nothing without it: with it
the model is base + s (B A - B0 A0), to the last bit the base where nothing was trained.
"""

from __future__ import annotations

from pathlib import Path

from surgeon.adapters.peft_format import PREFIX, open_adapter
from surgeon.checkpoint.index import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint
from surgeon.checkpoint.sidecars import SURGEON_DIR

FOLDER = "start"
WEIGHTS = f"{FOLDER}/{ADAPTER_WEIGHTS}"  # under surgeon/
CONFIG = f"{SURGEON_DIR}/{FOLDER}/{ADAPTER_CONFIG}"
# the beginnings of init_lora_weights of such kinds
BASE_CHANGED = ("pissa", "olora", "corda", "lora_ga", "loftq")


def changes_base(adapter: Checkpoint) -> bool:
    """Whether the adapter's kind took its first update out of the model's weights."""
    return str(adapter.config.get("init_lora_weights", "")).startswith(BASE_CHANGED)


def start_of(adapter: Checkpoint) -> Path | None:
    """The folder of the start, where the adapter needs one and has it."""
    folder = adapter.path / SURGEON_DIR / FOLDER
    return folder if changes_base(adapter) and (folder / ADAPTER_WEIGHTS).is_file() else None


def start_factors(adapter: Checkpoint) -> dict[str, tuple[str, str]]:
    """Module -> names of its first A and B in the folder of the start; empty without one."""
    folder = start_of(adapter)
    if folder is None:
        return {}
    names = open_adapter(folder).tensors
    ends = (".lora_A.weight", ".lora_B.weight")
    modules = [n.removeprefix(PREFIX).removesuffix(ends[0]) for n in names if n.endswith(ends[0])]
    return {m: (f"{PREFIX}{m}{ends[0]}", f"{PREFIX}{m}{ends[1]}") for m in modules}
