"""A model card as one text: the head, what the model is, how it was made, from what, and under which licences."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from surgeon.card.front import dump_front, front_of, licence_of, steps
from surgeon.card.steps import code, sources, step_lines
from surgeon.checkpoint.lineage import Lineage, Parent
from surgeon.words import plain, visible

# as config.json spells them; models of other families say the rest in their own words
_CONFIG = (
    "num_hidden_layers", "n_layer", "hidden_size", "n_embd", "vocab_size", "max_position_embeddings", "n_positions",
    "tie_word_embeddings",
)  # fmt: skip
_ADAPTER = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora")


class Shaped(Protocol):
    """A tensor as it is stored, or as it is planned."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


def card_text(
    lineage: Lineage,
    config: Mapping[str, Any],
    tensors: Mapping[str, Shaped],
    parents: Sequence[Mapping[str, Any]],
) -> str:
    """The card of an output. config: of the model, or adapter_config.json. parents: the heads of the direct parents'
    cards, in the order of the lineage. There is no time in it and no name of the output: the same plan gives the same
    text, wherever it is carried out."""
    adapter = "peft_type" in config
    front = front_of(lineage, parents, config, adapter)
    lines = [
        dump_front(front),
        f"# {_title(lineage)}",
        "",
        *_about(config, tensors, adapter),
        "",
        "## How it was made",
        "",
        *step_lines(lineage),
        "`surgeon.json` beside the weights holds these steps with all settings and digests, and which block and which",
        "row of the vocabulary came from where; `surgeon verify` checks the files against it. Versions: "
        + ", ".join(f"{key} {held}" for key, held in lineage.versions.items())
        + ".",
        "",
        *_sources(lineage),
        "## Licence",
        "",
        *_licences(lineage, parents, front),
    ]
    return "\n".join(lines) + "\n"


def _title(lineage: Lineage) -> str:
    first = next((_escaped(visible(parent.name)) for parent in sources(lineage)), "A model")
    return f"{first}, after {', '.join(dict.fromkeys(step.operation for step in steps(lineage)))}"


def _escaped(text: str) -> str:
    """`text` as it stands, outside of code."""
    return re.sub(r"([\\`*<\[\]~&])", r"\\\1", text)


def _about(config: Mapping[str, Any], tensors: Mapping[str, Shaped], adapter: bool) -> list[str]:
    counts: dict[str, int] = {}
    for held in tensors.values():
        counts[held.dtype] = counts.get(held.dtype, 0) + math.prod(held.shape)
    stored = ", ".join(f"{count:,} in {dtype}" for dtype, count in sorted(counts.items()))
    architectures = config.get("architectures")
    rows = [("kind", "an adapter of PEFT, for the model it was made for")] if adapter else []
    if isinstance(architectures, list) and architectures:
        rows.append(("architecture", code(str(architectures[0]))))
    rows.append(("stored parameters", stored))
    text = config.get("text_config")
    told = {**config, **text, **_tie(config)} if isinstance(text, Mapping) else config
    rows += [(key, plain(told[key])) for key in (_ADAPTER if adapter else _CONFIG) if told.get(key) is not None]
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)]


def _tie(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a model in parts it is the whole's word that ties the head."""
    return {key: config[key] for key in ("tie_word_embeddings",) if key in config}


def _sources(lineage: Lineage) -> list[str]:
    rows = [f"| {_model(parent)} | `{parent.digest}` |" for parent in sources(lineage)]
    return ["## What it was made from", "", "| model | digest |", "|---|---|", *rows, ""] if rows else []


def _model(parent: Parent) -> str:
    return code(parent.name) + (f" at {code(parent.revision)}" if parent.revision else "")


def _licences(lineage: Lineage, parents: Sequence[Mapping[str, Any]], front: Mapping[str, Any]) -> list[str]:
    if front.get("license"):
        return [f"That of what it was made from, as named there: {code(_licence(front))}."]
    told = [f"{code(parent.name)} {_named(head)}" for parent, head in zip(lineage.parents, parents, strict=True)]
    return ["Not named here: " + "; ".join(told) + "."] if told else ["Not named here."]


def _named(head: Mapping[str, Any]) -> str:
    return f"names {code(_licence(head))}" if licence_of(head) else "names none that was at hand"


def _licence(head: Mapping[str, Any]) -> str:
    return str(head.get("license_name") or head["license"])
