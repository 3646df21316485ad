"""The declared architectures, found as files of `surgeon/arch/families`; others are derived and have to be proved."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from surgeon.arch.declaration import Declaration
from surgeon.checkpoint.no_weights import check_is_model
from surgeon.errors import EXTRACT, SurgeonError, did_you_mean

# model_type -> why it is not operated on, and what to do instead
REFUSED: dict[str, tuple[str, str]] = {
    "gemma3n": (
        "its embeddings have columns for every block and blocks share keys and values",
        "use a model without per-layer embeddings",
    ),
    "longcat_flash": ("each of its blocks holds two, which count as one", "use a model of one attention per block"),
    "zamba": ("its blocks share one attention block, so they are no blocks of their own", "use another hybrid model"),
    "zamba2": ("its blocks share attention blocks, so they are no blocks of their own", "use another hybrid model"),
}


@cache
def declarations() -> dict[str, Declaration]:
    """Every declared family by model_type, sorted."""
    package = importlib.import_module("surgeon.arch.families")
    found = (
        importlib.import_module(f"{package.__name__}.{module.name}").FAMILY
        for module in pkgutil.iter_modules(package.__path__)
        if not module.name.startswith("_")
    )
    return {d.model_type: d for d in sorted(found, key=lambda d: d.model_type)}


def declaration_of(config: Mapping[str, Any], where: str, names: Sequence[str]) -> Declaration:
    """The declaration for a config.json: the written one, else one derived from the names of the tensors.

    Refuses a model_type that transformers does not know, and a class that is no causal language model.
    """
    check_is_model(config, where)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise SurgeonError("config.json names no model_type", where, "restore config.json from the model's source")
    if model_type in REFUSED:
        reason, hint = REFUSED[model_type]
        raise SurgeonError(f"models of type {model_type!r} are not operated on: {reason}", where, hint)
    if isinstance(config.get("text_config"), dict) or isinstance(config.get("vision_config"), dict):
        raise SurgeonError(
            f"models of type {model_type!r} are not operated on: it holds other parts beside the language model",
            where,
            EXTRACT,
        )
    if config.get("quantization_config"):
        raise quantised(f"{where}: quantization_config")
    known = declarations()
    if model_type not in known:
        from surgeon.arch.generic import derive

        return derive(config, tuple(names), where)
    declared = known[model_type]
    for architecture in named_classes(config, where):
        if architecture not in declared.architectures:
            raise SurgeonError(
                f"the checkpoint is a {architecture}, which is not a causal language model that surgeon knows",
                where,
                did_you_mean(architecture, declared.architectures),
            )
    return declared


def named_classes(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The classes that config.json names (`architectures`), none where it names none. Raises SurgeonError on what is
    no list of names."""
    found = config.get("architectures") or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise SurgeonError(
            f"config.json names no classes: architectures is {found!r}",
            where,
            "restore config.json from the model's source",
        )
    return tuple(found)


def quantised(where: str) -> SurgeonError:
    """The refusal of weights that are codes. where: what says so."""
    return SurgeonError(
        "the weights are quantised, and surgery needs plain ones",
        where,
        "give the model in bfloat16, float16 or float32 (transformers: load with dequantize, then save)",
    )
