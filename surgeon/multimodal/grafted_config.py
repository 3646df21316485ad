"""config.json of a multimodal model with another language model in it, and what its other parts rely on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.multimodal.part import LanguagePart
from surgeon.multimodal.values import read_settings, values_of

# what the towers and the projector beside the language model reckon with
_FIXED = ("model_type", "hidden_size")
# no values of the model: its class, versions, and the type that its tensors have anyway
_SILENT = ("architectures", "transformers_version", "dtype", "torch_dtype")
_OLD_ROPE = ("rope_scaling", "rope_theta")  # as config.json spelled rope_parameters before transformers 5


def grafted_config(
    outer: Mapping[str, Any], part: LanguagePart, inner: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The multimodal model's, with what the language model's says otherwise than that of the extracted one.

    Raises SurgeonError where the language model is of another type or width, or lacks rows that it had.
    """
    was, now = (values_of(read_settings(held, at)) for held, at in ((part.config, "the part"), (inner, where)))
    for key in _FIXED:
        if now.get(key) != was.get(key):
            raise SurgeonError(
                f"{key} is {now.get(key)!r}, and that of the multimodal model's part is {was.get(key)!r}",
                where,
                "give what became of the one that surgeon extract-language-model took out of it",
            )
    rows, before = now.get("vocab_size"), was.get("vocab_size")
    if isinstance(rows, int) and isinstance(before, int) and rows < before:
        raise SurgeonError(
            f"the language model has {rows} rows and had {before}: the ids of images may be among those that lack",
            where,
            "give one with the old rows and more",
        )
    found: dict[str, Any] = dict(outer)
    text = found
    if isinstance(outer.get("text_config"), dict):  # else all lies at the top, as before transformers 5 (Qwen2-VL)
        text = found["text_config"] = dict(outer["text_config"])
    unread = _unread(outer, inner, now, where)
    for key in dict.fromkeys((*was, *now)):
        if key in _SILENT or key in unread or now.get(key, _SILENT) == was.get(key, _SILENT):
            continue
        if key not in now:
            text.pop(key, None)
            continue
        value = inner.get(key, now[key])
        text[key] = _rope(text, value) if key == "rope_parameters" else value
        if key in outer or key == "tie_word_embeddings":
            found[key] = value
    return found


def _unread(outer: Mapping[str, Any], inner: Mapping[str, Any], now: Mapping[str, Any], where: str) -> set[str]:
    """The keys that the part does not know, as its type is another one. Raises SurgeonError on one that has another
    value than what the part does."""
    part = read_settings(outer, where).get_text_config()
    if part.model_type == now["model_type"]:
        return set()
    known = values_of(part)
    silent = values_of(read_settings({k: v for k, v in inner.items() if k in known or k == "model_type"}, where))
    unread = {key for key in now if key not in known and key != "tie_word_embeddings"}  # the whole ties
    for key in sorted(unread):
        if key in silent and silent[key] != now[key] and key not in _SILENT:
            raise SurgeonError(
                f"{key} is {now[key]!r}, which the multimodal model's part, a {part.model_type}, does not know",
                where,
                "give one that computes what the extracted one did",
            )
    return unread


def check_first_blocks(outer: Mapping[str, Any], part: LanguagePart, inner: Checkpoint) -> None:
    """Raise SurgeonError where features of images are added behind the first blocks (DeepStack, Qwen3-VL) and these
    are not the first blocks of the language model any more, or nothing tells whether they are."""
    vision = outer.get("vision_config")
    count = len(vision.get("deepstack_visual_indexes") or ()) if isinstance(vision, dict) else 0
    depth = "num_hidden_layers"
    if not count or inner.config.get(depth) == part.config.get(depth):
        return
    source = list(range(count))
    lineage = inner.lineage
    for step in lineage.chain() if lineage is not None else ():
        if step.blocks is not None:
            new = {block.block for block in step.blocks.new}
            source = [-1 if b < 0 or b in new else step.blocks.source[b] for b in source]
    if lineage is None or source != list(range(count)):
        raise SurgeonError(
            f"the model adds features of images behind its first {count} blocks, and these are others now",
            str(inner.path),
            f"put new blocks behind block {count - 1}: surgeon expand-layers --select range, or --at",
        )


def _rope(text: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Other rotary parameters; how the three positions of an image share them (M-RoPE) stays."""
    before = text.get("rope_parameters") or text.get("rope_scaling") or {}
    for key in _OLD_ROPE:
        text.pop(key, None)
    return dict(wanted) | {key: value for key, value in before.items() if key.startswith("mrope")}
