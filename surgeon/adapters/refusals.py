"""Combinations that PEFT is known to get wrong, refused before anything is written; each has a test that shows the
wrong number, so that a refusal goes when PEFT mends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.adapters.kind import Kind
from surgeon.adapters.targets import Chosen
from surgeon.arch.family import Family
from surgeon.errors import SurgeonError

# keys of an adapter's configuration whose update is no update of weights that could be folded
_NOT_WEIGHTS = {
    "alora_invocation_tokens": "it acts only behind certain tokens",
    "arrow_config": "it chooses between adapters for every token",
    "layer_replication": "PEFT's copies of layers share weights: its own merge gives wrong logits (expand-layers "
    "makes real copies)",
}
RANDOM_START = "pissa_niter"  # the beginning of init_lora_weights
PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "XLORA")


def check_choice(config: Any, kind: Kind, family: Family, chosen: Chosen, where: str) -> None:
    """Refuse what is about to be attached. Raises SurgeonError with the reason and the way around it."""
    values = {key: getattr(config, key, None) for key in ("layer_replication", "modules_to_save", "bias")}
    if values["layer_replication"]:
        raise SurgeonError(
            "layer_replication copies layers that share their weights: PEFT fails on models with a list of layer "
            "types, and merges others wrongly",
            where,
            "deepen the model itself: surgeon expand-layers",
        )
    if chosen.outside and family.tied:
        raise SurgeonError(
            f"{' and '.join(chosen.outside)} share one matrix, and PEFT updates the two apart: what it merges is not "
            "what it computed",
            where,
            "train single rows with --new-rows, or give the head a matrix of its own first (extend-vocab --untie)",
        )
    _check_saved(values["modules_to_save"], family, where)
    if kind.config.get("init_lora_weights") == "olora" and family.transposed:
        raise SurgeonError(
            f"the matrices of {family.name} are stored [in, out], and PEFT's OLoRA takes them for [out, in]",
            where,
            "use --kind pissa",
        )
    if str(getattr(config, "init_lora_weights", "")).startswith(RANDOM_START):
        raise SurgeonError(
            "PEFT draws a randomised decomposition anew where it opens the folder: the model is another one then",
            where,
            "use --kind pissa, whose decomposition is the full one",
        )
    if kind.peft_type == "LORA" and chosen.experts:
        _check_experts(kind, where)


def check_adapter(config: Mapping[str, Any], where: str) -> None:
    """Refuse an adapter from elsewhere whose effect is not one on weights, or that PEFT merges wrongly."""
    if config.get("peft_type") in PROMPTS:
        raise SurgeonError(
            f"the adapter is of the type {config['peft_type']}, which changes no weights", where, "use it with peft"
        )
    for key, reason in _NOT_WEIGHTS.items():
        if config.get(key):
            raise SurgeonError(f"the adapter uses {key}: {reason}", where, "use the model that it was made for")


def _check_saved(modules: Any, family: Family, where: str) -> None:
    """Only one of two tied matrices saved: PEFT restores the other from the base, which may have changed since."""
    names = {"embedding": family.declaration.embedding.rpartition(".")[2], "head": family.declaration.head}
    saved = [what for what, name in names.items() if name in (modules or ())]
    if family.tied and len(saved) == 1:
        raise SurgeonError(
            f"only the {saved[0]} of a tied model would be saved: PEFT takes the other one from the base",
            where,
            "save both, or train single rows with --new-rows",
        )


def _check_experts(kind: Kind, where: str) -> None:
    """PEFT's LoRA on parameters has no variants and no dropout: it cannot take them apart from the experts."""
    for key, what in (("use_dora", "DoRA"), ("lora_dropout", "dropout")):
        if kind.config.get(key):
            raise SurgeonError(f"PEFT has no {what} on experts", where, f"leave out {what}, or the experts")
    if not kind.planned:
        raise SurgeonError("PEFT has only plain LoRA on experts", where, "use --kind lora, or leave out the experts")
