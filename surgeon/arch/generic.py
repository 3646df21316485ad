"""A family that nobody declared, read from its class in transformers and the names of its tensors.

What is derived here is a claim: an operation on the blocks has to prove it on a tiny model of the same configuration
(`surgeon.expand.proof`) before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from surgeon.arch.catalogue import named_classes
from surgeon.arch.configuration import accepted_settings
from surgeon.arch.declaration import WRITING_ROLES, Declaration
from surgeon.arch.roles import role_by_name
from surgeon.errors import SurgeonError

# keys that hold block numbers, and keys that hold a number of leading blocks (and the list that stands for it)
INDEX_LISTS = ("mlp_only_layers", "moe_layers", "attn_layer_indices", "full_attn_idxs", "hybrid_layer_ids")
BOUNDARIES = {
    "max_window_layers": "layer_types",
    "first_k_dense_replace": "mlp_layer_types",
    "num_dense_layers": "",
}
# what a copy of a block cannot honour, by the key that says so
DEPENDS_ON_NUMBER = {
    "num_kv_shared_layers": "its last blocks share keys and values with earlier ones",
    "hidden_size_per_layer_input": "its embeddings have columns for every block",
    "scale_attn_by_inverse_layer_idx": "attention is divided by the block's number, which a copy does not keep",
    "hc_mult": "each mixes several residual streams (hyper-connections), and so does a copy that adds nothing to them",
    "ple_layer_ids": "its embeddings are added at numbered blocks",
}
# parts of a configuration that are no model beside the language model
_NO_TOWERS = ("attn_config", "ffn_config", "per_layer_config")
_HEADS = ("lm_head", "embed_out", "output", "head")
_EMBEDDING_LIKE = re.compile(r"(^|[._])(wpe|embed_positions|position_embeddings)$")


def derive(config: Mapping[str, Any], names: Sequence[str], where: str) -> Declaration:
    """The declaration that follows from config.json, its class and the names. Raises SurgeonError where none does."""
    import json

    return _derive(json.dumps(config, sort_keys=True), tuple(sorted(names)), where)


@lru_cache(maxsize=16)
def _derive(config_json: str, names: tuple[str, ...], where: str) -> Declaration:
    import json

    config = json.loads(config_json)
    settings, architecture = _settings(config, where)
    model = _meta_model(settings, where)
    plain: dict[str, Any] = settings.to_dict()
    depth_key = settings.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    depth = plain.get(depth_key)
    if not isinstance(depth, int) or isinstance(depth, bool):
        raise _unclear(settings, where, f"{depth_key} is {depth!r}")
    prefix = _container(names, depth)
    if prefix is None:
        raise _unclear(settings, where, f"no modules numbered 0 to {depth - 1} are among its tensors")
    if prefix.rstrip(".") not in dict(model.named_modules()):
        raise _unclear(settings, where, f"its blocks ({prefix}N) have other names in memory than in the checkpoint")
    base, blocks = re.fullmatch(r"((?:.*\.)?)([^.]+\.)", prefix).groups()  # type: ignore[union-attr]
    embedding = _stored(model, _module_name(model, model.get_input_embeddings()), names)
    head = _stored(model, _module_name(model, model.get_output_embeddings()), names)
    if head is not None and f"{head}.weight" not in names:
        head = next((other for other in _HEADS if f"{other}.weight" in names), head)  # renamed by transformers
    if embedding is None or head is None or f"{embedding}.weight" not in names:
        raise _unclear(settings, where, "its embedding or its head is not where its class says")
    if not embedding.startswith(base):
        raise _unclear(settings, where, "its embedding lies outside of the module that holds its blocks")
    inside = re.compile(re.escape(prefix) + r"\d+\.(.+)")
    parts: dict[str, str] = {}
    outside: dict[str, str] = {}
    for name in names:
        found = inside.fullmatch(name)
        if found:
            part = re.sub(r"(?<=\.)\d+(?=\.|$)", "{n}", re.sub(r"\.(weight|bias)$", "", found[1]))
            parts.setdefault(part, role_by_name(part))
        elif name not in (f"{embedding}.weight", f"{head}.weight", f"{head}.bias"):
            outside[name] = _role_outside(name)
    norms = [name for name, role in outside.items() if role == "final_norm" and name.endswith(".weight")]
    final_norm = norms[0].removesuffix(".weight") if len(norms) == 1 and norms[0].startswith(base) else None
    if not any(role in WRITING_ROLES for role in parts.values()):
        raise _unclear(settings, where, "no part of its blocks is known to write to the residual stream")
    lists = [k for k, v in plain.items() if isinstance(v, list) and len(v) == depth and k not in INDEX_LISTS]
    from surgeon.arch.config_blocks import NOT_PER_BLOCK

    counted = (*INDEX_LISTS, *BOUNDARIES, "decoder_sparse_step", "scale_depth")
    return Declaration(
        model_type=settings.model_type,
        architectures=(architecture,),
        parts=parts,
        base=base,
        blocks=blocks,
        embedding=embedding.removeprefix(base),
        head=head,
        final_norm=final_norm.removeprefix(base) if final_norm else None,
        depth_key=depth_key,
        tied=bool(plain.get("tie_word_embeddings", False)),
        transposed=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        derived_lists=tuple(key for key in lists if key not in NOT_PER_BLOCK and not key.startswith("_"))
        + tuple(key for key in ("moe_layers",) if plain.get(key)),
        index_lists=tuple(key for key in INDEX_LISTS if key in plain),
        boundaries={key: instead for key, instead in BOUNDARIES.items() if key in plain},
        sparse_step="decoder_sparse_step" in plain,
        defaults={key: plain[key] for key in counted if plain.get(key) is not None},
        buffers=(),
        refuse_if=DEPENDS_ON_NUMBER,
        depth_scales=tuple(key for key in ("scale_depth",) if isinstance(plain.get(key), (int, float))),
        neutral={part: 1.0 for part in ("layer_scalar",) if part in parts},
        outside=outside,
        derived=True,
        plain_shapes=False,
    )


def _settings(config: dict[str, Any], where: str) -> tuple[Any, str]:
    """The configuration as its class reads it, and the name of the causal language model for it."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as MODELS

    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise SurgeonError(
            f"the architecture {model_type!r} is not known to transformers",
            where,
            "code that comes with a model is not run: use a model whose class is part of transformers",
        )
    architecture = MODELS.get(model_type)
    if architecture is None or isinstance(architecture, (tuple, list)):
        raise SurgeonError(
            f"{model_type!r} is not the architecture of a causal language model", where, "give a language model"
        )
    for name in named_classes(config, where):
        if name != architecture:
            raise SurgeonError(
                f"the checkpoint is a {name}, which is not a causal language model that surgeon knows",
                where,
                f"did you mean {architecture}?",
            )
    settings = accepted_settings(config, where)
    towers = any(
        key.endswith("_config") and key not in _NO_TOWERS and isinstance(value, dict)
        for key, value in settings.to_dict().items()
    )
    if getattr(settings, "is_encoder_decoder", False) or towers:
        raise _unclear(settings, where, "it holds more than a stack of blocks of a language model")
    return settings, str(architecture)


def _meta_model(settings: Any, where: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(settings)
    except Exception as error:  # whatever the class raises, the model cannot be built
        raise SurgeonError(
            f"transformers cannot build a model from this config.json: {str(error).strip().splitlines()[0]}",
            where,
            "compare it with the config.json of the model's source",
        ) from error


def _container(names: Sequence[str], depth: int) -> str | None:
    """The prefix of the outermost modules that are numbered 0 to depth - 1 ("model.layers.")."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        for found in re.finditer(r"(?<=\.)\d+(?=\.)", name):
            numbers.setdefault(name[: found.start()], set()).add(int(found[0]))
    fitting = [prefix for prefix, there in numbers.items() if set(range(depth)) <= there]
    return min(fitting, key=lambda prefix: (prefix.count("."), prefix), default=None)


def _module_name(model: Any, module: Any) -> str | None:
    return next((name for name, other in model.named_modules() if other is module), None)


def _stored(model: Any, module: str | None, names: Sequence[str]) -> str | None:
    """What a checkpoint calls the module, where transformers renames it on loading (EXAONE 3: `transformer.wte`)."""
    if module is None or f"{module}.weight" in names:
        return module
    from surgeon.arch.meta import written_names

    written = written_names(model, [f"{module}.weight"])
    return written[0].removesuffix(".weight") if written and written[0] in names else module


def _role_outside(name: str) -> str:
    module = re.sub(r"\.(weight|bias)$", "", name)
    if _EMBEDDING_LIKE.search(module):
        return "position"
    last = module.rpartition(".")[2]
    return "final_norm" if ("norm" in last or last.startswith("ln")) and "emb" not in last else "other"


def _unclear(settings: Any, where: str, reason: str) -> SurgeonError:
    return SurgeonError(
        f"the architecture {settings.model_type!r} is not declared and cannot be derived: {reason}",
        where,
        "a file in surgeon/arch/families declares an architecture: write one, or use a model of a declared one",
    )
