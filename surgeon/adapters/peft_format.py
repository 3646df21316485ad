"""A PEFT folder read as data: which tensor of it changes what of a model."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgeon.checkpoint.index import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint
from surgeon.errors import SurgeonError

PREFIX = "base_model.model."
_ROWS = "token_adapter.trainable_tokens_delta"
_FACTORS = {
    "lora_A.weight": "A", "lora_B.weight": "B", "lora_embedding_A": "A", "lora_embedding_B": "B",
}  # fmt: skip


@dataclass(frozen=True)
class Touched:
    """What an adapter holds for one module: names of its tensors.

    factors: "A" and "B" of LoRA. rows: new values of some rows (ids in the configuration's order). saved: leaf of the
    module -> a tensor that takes its place. others: whatever else, by the rest of their names.
    """

    module: str
    factors: Mapping[str, str] = field(default_factory=dict)
    rows: str | None = None
    saved: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_embedding(self) -> bool:
        return any("lora_embedding" in name for name in self.factors.values())


@dataclass(frozen=True)
class Adapter:
    """An opened PEFT folder. shared: tensors that serve all modules (VeRA)."""

    checkpoint: Checkpoint
    touched: dict[str, Touched]
    shared: tuple[str, ...] = ()

    @property
    def config(self) -> dict[str, Any]:
        return self.checkpoint.config

    @property
    def kind(self) -> str:
        """A word for people: PEFT's type, or what makes its LoRA another one."""
        config = self.config
        init = config.get("init_lora_weights", True)
        if config.get("use_dora"):
            return "dora"
        if config.get("peft_type") == "LORA" and isinstance(init, str):
            return init
        return str(config.get("peft_type")).lower()


def open_adapter(folder: Path) -> Checkpoint:
    """The folder as a Checkpoint whose config is adapter_config.json. Raises SurgeonError on anything else."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            inside = sorted(found.parent.name for found in folder.glob(f"*/{ADAPTER_CONFIG}"))
            raise SurgeonError(
                f"there is no {name}",
                str(folder),
                f"PEFT keeps several adapters in folders of it: give {' or '.join(f'{folder}/{i}' for i in inside)}"
                if inside
                else "give a PEFT folder saved as safetensors (save_pretrained)",
            )
    checkpoint = Checkpoint.open(folder)
    if not isinstance(checkpoint.config.get("peft_type"), str):
        raise SurgeonError(
            "adapter_config.json names no peft_type", str(folder), "restore it from the adapter's source"
        )
    return checkpoint


def read_adapter(folder: Path, modules: Iterable[str]) -> Adapter:
    """What the folder holds for a model that has these modules. Raises SurgeonError on a tensor that none of them can
    take, which names the model it was made for."""
    checkpoint = open_adapter(folder)
    known = set(modules)
    found: dict[str, dict[str, str]] = {}
    shared = []
    for name in checkpoint.tensors:
        if not name.startswith(PREFIX):
            shared.append(name)
            continue
        module = _module(name.removeprefix(PREFIX), known)
        if module is None:
            raise SurgeonError(
                f"the adapter holds {name!r}, which is for no module of the model",
                str(folder),
                f"give the model it was made for ({checkpoint.config.get('base_model_name_or_path')})",
            )
        found.setdefault(module, {})[name.removeprefix(f"{PREFIX}{module}.")] = name
    return Adapter(checkpoint, {m: _touched(m, found[m]) for m in sorted(found)}, tuple(shared))


def rank_and_scaling(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    """The rank of a LoRA's module and s of its update s B A, as PEFT reads the configuration."""
    rank = _by_pattern(config.get("rank_pattern"), module, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    return rank, alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def scaling_of(adapter: Checkpoint, name: str) -> float | None:
    """s of the module whose factor A has this name; None for other tensors."""
    if adapter.config["peft_type"] != "LORA" or not name.endswith((".lora_A.weight", ".lora_embedding_A")):
        return None
    module = name.removeprefix(PREFIX).rpartition(".lora_")[0]
    return rank_and_scaling(adapter.config, module)[1]


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's rule: the first key that is the module, or its end behind a dot, as a regular expression."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def written(config: Any) -> dict[str, Any]:
    """adapter_config.json as PEFT itself writes it, in the order of its keys."""
    plain = {key: _plain(value) for key, value in config.to_dict().items()}
    return dict(sorted(plain.items()))


def _plain(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return getattr(value, "value", value) if not isinstance(value, (dict, list, str)) else value


def _module(rest: str, known: set[str]) -> str | None:
    """The longest module whose tensor this is."""
    parts = rest.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:count])
        if module in known:
            return module
    return None


def _touched(module: str, tensors: Mapping[str, str]) -> Touched:
    factors = {letter: tensors[rest] for rest, letter in _FACTORS.items() if rest in tensors}
    saved = {}
    for leaf in ("weight", "bias"):
        for rest in (leaf, f"base_layer.{leaf}", f"ln_tuning_layers.{leaf}"):
            if rest in tensors:
                saved[leaf] = tensors[rest]
    used = {*factors.values(), *saved.values(), tensors.get(_ROWS)}
    # with bias="all" PEFT writes the biases of a saved module under the names of its wrapper once more
    again = {f"{wrapper}.bias" for wrapper in ("modules_to_save", "original_module")} if "bias" in tensors else set()
    others = {rest: name for rest, name in tensors.items() if name not in used and rest not in again}
    return Touched(module, factors, tensors.get(_ROWS), saved, others)
