"""What to say of a folder without weights that are read here: what lies there in their place, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def no_weights(folder: Path, expected: str) -> SurgeonError:
    """The refusal of a folder that holds no `expected` file (words): an adapter, GGUF, a pickle, shards without their
    index, or nothing."""
    where = str(folder)
    if any((folder / name).is_file() for name in _ADAPTER_FILES):
        return adapter_alone(where)
    for gguf in _files(folder, "*.gguf"):
        return a_gguf(gguf, where)
    for pickle in _files(folder, *_PICKLES):
        return SurgeonError(
            f"the weights are in a pickle ({pickle}), which surgeon does not open: it can run code",
            where,
            "convert it once: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW) writes safetensors",
        )
    shards = _files(folder, "*-of-*.safetensors")
    if shards:
        return SurgeonError(
            f"there are shards ({shards[0]}, ...) without the model.safetensors.index.json that belongs to them",
            where,
            "download the index too, from the same revision",
        )
    return SurgeonError(f"there is neither {expected}", where, "give a complete checkpoint")


def a_gguf(name: str, where: str) -> SurgeonError:
    """The refusal of weights that were converted for llama.cpp."""
    return SurgeonError(
        f"the weights are in a GGUF file ({name}), which is not read here: it holds them under other names, in other "
        "orders and mostly quantised",
        where,
        "give the safetensors that it was converted from",
    )


def adapter_alone(where: str) -> SurgeonError:
    """The refusal of an adapter where a whole model is needed."""
    return SurgeonError(
        "this is a PEFT adapter, not a model", where, "write MODEL+ADAPTER, or fold it first: surgeon fold-adapter"
    )


def check_is_model(config: Mapping[str, Any], where: str) -> None:
    """Raise SurgeonError where the opened configuration is that of an adapter."""
    if "peft_type" in config and "model_type" not in config:
        raise adapter_alone(where)


def _files(folder: Path, *patterns: str) -> list[str]:
    return sorted(path.name for pattern in patterns for path in folder.glob(pattern))
