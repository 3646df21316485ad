"""The language model inside a multimodal checkpoint: its configuration, and which tensors are its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from surgeon.arch.catalogue import declarations
from surgeon.arch.configuration import settings_of
from surgeon.arch.family import check_plain, family_of_names
from surgeon.arch.one_matrix import check_one_matrix
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.same_rows import same_rows
from surgeon.errors import SurgeonError
from surgeon.multimodal.head import head_of
from surgeon.multimodal.values import read_settings, values_of

HEAD = "lm_head."
# what the class of a configuration says of itself, and not of the model
_OF_THE_OBJECT = ("_name_or_path", "transformers_version", "architectures", "_attn_implementation_autoset")
_SHARED = ("bos_token_id", "eos_token_id", "pad_token_id")
# text parts without a causal class of their own -> the type that computes the same of text: the three positions of a
# token (M-RoPE) are one where there is no image
_PLAIN = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}


@dataclass(frozen=True)
class LanguagePart:
    """config: of a checkpoint of its own, with every value that the multimodal class reads, said or not. base, prefix:
    how names of the language model begin in a checkpoint of its own and in the multimodal one; head: how those of its
    head begin in the latter. names: multimodal name -> own name, in the order of the checkpoint. left: the names of
    all other tensors."""

    config: dict[str, Any]
    base: str
    prefix: str
    head: str
    names: Mapping[str, str]
    left: tuple[str, ...]

    def inside(self, name: str) -> str:
        """The name in the multimodal checkpoint of a tensor that has this one in a checkpoint of its own."""
        if name.startswith(HEAD):
            return self.head + name.removeprefix(HEAD)
        return self.prefix + name.removeprefix(self.base)


def language_part(checkpoint: Checkpoint) -> LanguagePart:
    """Found by the names: the one place of an embedding from which the language model's architecture is complete.

    A checkpoint of the language model alone whose names are still those of the multimodal one counts too. Raises
    SurgeonError where there is no language model, more than one, or one that is not operated on.
    """
    where = str(checkpoint.path)
    config = own_config(checkpoint.config, where)
    declared = declarations().get(config["model_type"])
    embedding = f"{declared.embedding if declared else 'embed_tokens'}.weight"
    base = declared.base if declared else "model."
    found: list[LanguagePart] = []
    problem: SurgeonError | None = None
    for prefix in _prefixes(checkpoint.tensors, embedding):
        heads = dict.fromkeys((HEAD, prefix.removesuffix("model.") + HEAD))
        for head in [h for h in heads if any(name.startswith(h) for name in checkpoint.tensors)] or [HEAD]:
            names = {n: new for n in checkpoint.tensors if (new := _own_name(n, prefix, base, head)) is not None}
            try:
                family = family_of_names(config, names.values(), where)
            except SurgeonError as error:
                problem = error
                continue
            check_plain(family, {own: checkpoint.tensors[name].dtype for name, own in names.items()}, where)
            own = _tied(checkpoint, config, names, prefix + embedding)
            left = tuple(n for n in checkpoint.tensors if n not in names)
            found.append(LanguagePart(own, base, prefix, _head(head, prefix, names), names, left))
    if len(found) == 1:
        return found[0]
    if found:
        raise SurgeonError(
            f"the checkpoint holds several language models: {', '.join(p.prefix for p in found)}",
            where,
            "give another",
        )
    raise problem or SurgeonError(
        f"no tensor is named {embedding!r}, as the embedding of a {config['model_type']} would be",
        where,
        "give a complete checkpoint of a model that names it so",
    )


def own_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config.json of the language model alone: what the class of the multimodal configuration makes of its part,
    whether to tie included. Raises SurgeonError where transformers has no causal language model for it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    whole = read_settings(config, where)
    try:
        text = whole.get_text_config()
    except ValueError as error:
        raise SurgeonError(
            "config.json describes several language models", where, "use a model with one that is a model of its own"
        ) from error
    model_type = _PLAIN.get(text.model_type, text.model_type)
    architecture = CLASSES.get(model_type)
    if not isinstance(architecture, str):
        raise SurgeonError(
            f"transformers has no causal language model of type {text.model_type!r}, as the text part is",
            where,
            "use a model whose text part is one of its own (gemma3_text, mistral, qwen3_5_text, ...)",
        )
    found = {"architectures": [architecture]} | {
        key: value for key, value in values_of(text).items() if key not in _OF_THE_OBJECT
    }
    if model_type != text.model_type:
        found = _as_plain(found, model_type, where)
    outer = values_of(whole)
    head = head_of(whole, text, config.get("architectures"), where)
    derived = [key for key in head.neutral if key not in found]
    if derived:
        raise SurgeonError(
            f"the multimodal model's logits are not those of a {model_type}: its head knows no {derived[0]}",
            where,
            "nothing in config.json makes the causal model compute the same: use another model",
        )
    found |= {"tie_word_embeddings": head.tied, **head.neutral}
    for key in ("dtype", *_SHARED):
        if found.get(key) is None and outer.get(key) is not None:
            found[key] = outer[key]
    return found


def _as_plain(text: dict[str, Any], model_type: str, where: str) -> dict[str, Any]:
    """The values as this type has them. Raises SurgeonError on one that it does not know and that could matter."""
    known = settings_of({"model_type": model_type}).to_dict()
    width = text["hidden_size"] // text["num_attention_heads"]
    for key, value in text.items():
        ids, implied = key.endswith("_token_id"), key == "head_dim" and value == width
        if key not in known and not (ids or implied or value is None):
            raise SurgeonError(
                f"{key} is {value!r}, which the causal language model of type {model_type!r} does not know",
                where,
                "this model's text part is not one that stands alone",
            )
    rope = {k: v for k, v in text["rope_parameters"].items() if not k.startswith("mrope") and v != "mrope"}
    return {key: text[key] for key in text if key in known} | {"model_type": model_type, "rope_parameters": rope}


def _tied(checkpoint: Checkpoint, config: dict[str, Any], names: Mapping[str, str], embedding: str) -> dict[str, Any]:
    """A head of other values is one of its own where nothing but a default of the class ties it."""
    head = next((name for name, own in names.items() if own == f"{HEAD}weight"), None)
    if head is None or not config["tie_word_embeddings"]:
        return config
    if "tie_word_embeddings" in checkpoint.config:
        check_one_matrix(checkpoint, embedding, head)
        return config
    return config | {"tie_word_embeddings": same_rows(checkpoint.tensors[embedding], checkpoint.tensors[head])}


def _prefixes(names: Iterable[str], embedding: str) -> list[str]:
    return [name.removesuffix(embedding) for name in names if name == embedding or name.endswith("." + embedding)]


def _own_name(name: str, prefix: str, base: str, head: str) -> str | None:
    if name.startswith(head):
        return HEAD + name.removeprefix(head)
    return base + name.removeprefix(prefix) if name.startswith(prefix) else None


def _head(head: str, prefix: str, names: Mapping[str, str]) -> str:
    """Where the head is, or would be if it were not tied: beside the module `model` of a `language_model` that is a
    causal model of its own, else at the top."""
    if any(own.startswith(HEAD) for own in names.values()) or not prefix.endswith(".model."):
        return head
    return prefix.removesuffix("model.") + HEAD
