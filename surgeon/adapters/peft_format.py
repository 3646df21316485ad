"""A PEFT LoRA folder read as data: which modules, which factors, which scale; what is not plain LoRA is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.checkpoint.index import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint
from surgeon.errors import SurgeonError

PREFIX = "base_model.model."
_CURE = "fold it with peft itself: PeftModel.from_pretrained(...).merge_and_unload()"
# initialisations that leave the model's own weights alone; the others (pissa, olora, corda, loftq ...) change them
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "mica")
# keys of adapter_config.json that say "not plain LoRA" when they are set
_REFUSED = (
    "use_dora", "lora_bias", "layer_replication", "trainable_token_indices", "target_parameters", "modules_to_save",
    "alora_invocation_tokens", "use_qalora", "use_bdlora", "megatron_config", "kasa_config", "velora_config",
    "monteclora_config", "arrow_config",
)  # fmt: skip


@dataclass(frozen=True)
class LoraModule:
    """One adapted module: the names of its factors A [rank, in] and B [out, rank], and the scale of B A."""

    module: str
    a: str
    b: str
    rank: int
    scaling: float


def open_adapter(folder: Path) -> Checkpoint:
    """The folder as a Checkpoint whose config is adapter_config.json. Raises SurgeonError on anything else."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise SurgeonError(
                f"there is no {name}", str(folder), "give a PEFT folder saved as safetensors (save_pretrained)"
            )
    return Checkpoint.open(folder)


def lora_modules(adapter: Checkpoint) -> list[LoraModule]:
    """The adapted modules in the order of their names, checked against the configuration."""
    config, where = adapter.config, str(adapter.path / ADAPTER_CONFIG)
    _check_plain(config, where)
    factors: dict[str, dict[str, str]] = {}
    for name in adapter.tensors:
        match = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_(A|B)\.weight", name)
        if match is None:
            raise SurgeonError(f"the adapter holds {name!r}, which is not a factor of plain LoRA", where, _CURE)
        factors.setdefault(match[1], {})[match[2]] = name
    return [_module(adapter, module, factors[module], where) for module in sorted(factors)]


def _module(adapter: Checkpoint, module: str, names: Mapping[str, str], where: str) -> LoraModule:
    if sorted(names) != ["A", "B"]:
        raise SurgeonError(f"{module} has only one of lora_A and lora_B", where, "restore the adapter's files")
    a, b = adapter.tensors[names["A"]].shape, adapter.tensors[names["B"]].shape
    config = adapter.config
    rank = _by_pattern(config.get("rank_pattern"), module, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        raise SurgeonError(
            f"{module}: lora_A is {list(a)} and lora_B {list(b)}, the configuration says rank {rank}",
            where,
            "restore adapter_config.json and adapter_model.safetensors from one save",
        )
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return LoraModule(module, names["A"], names["B"], rank, scaling)


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's rule: the first key that is the module, or its end behind a dot, as a regular expression."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _check_plain(config: Mapping[str, Any], where: str) -> None:
    if config.get("peft_type") != "LORA":
        raise SurgeonError(f"the adapter is of the type {config.get('peft_type')}, not LORA", where, _CURE)
    for key in _REFUSED:
        if config.get(key):
            raise SurgeonError(f"the adapter uses {key}, which is not a low-rank update alone", where, _CURE)
    if config.get("bias", "none") != "none":
        raise SurgeonError("the adapter has trained biases of the model", where, _CURE)
    if config.get("init_lora_weights", True) not in _PLAIN_INITS:
        init = config["init_lora_weights"]
        raise SurgeonError(
            f"the adapter was started by {init!r}, which changes the model's own weights too", where, _CURE
        )
