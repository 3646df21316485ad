"""The declared architectures, found as files of `surgeon/arch/families`; an unknown one is refused, never guessed."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from surgeon.arch.declaration import Declaration
from surgeon.errors import SurgeonError, did_you_mean

# model_type -> why it is not operated on, and what to do instead
REFUSED: dict[str, tuple[str, str]] = {
    "gemma3": (
        "it holds a vision tower beside the language model",
        "save its text model: Gemma3ForCausalLM.from_pretrained(DIR).save_pretrained(NEW) writes gemma3_text",
    ),
    "gemma3n": (
        "its embeddings have columns for every block and blocks share keys and values",
        "use a model without per-layer embeddings",
    ),
    "gemma4": ("its last blocks share keys and values with earlier ones", "use a model without shared caches"),
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


def declaration_of(config: Mapping[str, Any], where: str) -> Declaration:
    """The declaration for a config.json; refuses an unknown model_type or a class that is no causal language model."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise SurgeonError("config.json names no model_type", where, "restore config.json from the model's source")
    if model_type in REFUSED:
        reason, hint = REFUSED[model_type]
        raise SurgeonError(f"models of type {model_type!r} are not operated on: {reason}", where, hint)
    known = declarations()
    if model_type not in known:
        raise SurgeonError(
            f"the architecture {model_type!r} is not known",
            where,
            f"known: {', '.join(known)} (others are not guessed)",
        )
    declared = known[model_type]
    for architecture in config.get("architectures") or ():
        if architecture not in declared.architectures:
            raise SurgeonError(
                f"the checkpoint is a {architecture}, which is not a causal language model that surgeon knows",
                where,
                did_you_mean(architecture, declared.architectures),
            )
    return declared
