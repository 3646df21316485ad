"""The head of a model card: the YAML that a hub reads, with what the parents' cards say of licence and language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgeon.checkpoint.lineage import Lineage

CARD = "README.md"
# keys that belong together: a licence of another name is "other" with its name and where to read it
LICENCE_KEYS = ("license", "license_name", "license_link")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_HEAD = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MERGES = ("merge", "merge-task-vectors")


def read_front(folder: Path) -> dict[str, Any]:
    """The YAML at the head of a folder's card; empty where there is no card, or no head that is a YAML mapping: a card
    is a text for people, and a model whose card is damaged is as good as one without."""
    import yaml

    try:
        head = _HEAD.match((folder / CARD).read_text(encoding="utf-8"))
        found = yaml.safe_load(head.group(1)) if head else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def licence_of(front: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `front` that name a licence; empty where it names none."""
    return {key: front[key] for key in LICENCE_KEYS if front.get(key)} if front.get("license") else {}


def front_of(
    lineage: Lineage, parents: Sequence[Mapping[str, Any]], config: Mapping[str, Any], adapter: bool
) -> dict[str, Any]:
    """The head of the card of an output, in the keys of the hub's model cards.

    parents: the heads of the direct parents' cards, in the order of the lineage. A licence is passed on where all of
    them name the same one, and left out otherwise; languages are those of all.
    """
    bases = list(dict.fromkeys(hub_bases(lineage)))
    merged = any(step.operation in _MERGES for step in steps(lineage))
    front: dict[str, Any] = {"base_model": bases} if bases else {}
    if bases:
        front["base_model_relation"] = "adapter" if adapter else "merge" if merged else "finetune"
    front["library_name"] = "peft" if adapter else "transformers"
    task = next((p["pipeline_tag"] for p in parents if isinstance(p.get("pipeline_tag"), str)), None)
    architectures = config.get("architectures")
    causal = isinstance(architectures, list) and any(str(name).endswith("CausalLM") for name in architectures)
    if task is None and (adapter or causal):
        task = "text-generation"
    if task:
        front["pipeline_tag"] = task
    licences = [licence_of(p) for p in parents]
    if licences and licences[0] and all(found == licences[0] for found in licences):
        front |= licences[0]
    if languages := list(dict.fromkeys(word for p in parents for word in _words(p.get("language")))):
        front["language"] = languages
    tags = ["surgeon", *(step.operation for step in steps(lineage)), *(["merge"] if merged else [])]
    return front | {"tags": list(dict.fromkeys(tags))}


def dump_front(front: Mapping[str, Any]) -> str:
    """The head as text, with its fences."""
    import yaml

    return f"---\n{yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)}---\n"


def hub_bases(lineage: Lineage) -> Iterator[str]:
    """The models of a hub that this one goes back to: on each way up the nearest parent that has a hub's name."""
    for parent in lineage.parents:
        name = parent.name.partition("@")[0]
        if is_hub_id(name):
            yield name
        elif parent.lineage is not None:
            yield from hub_bases(parent.lineage)


def is_hub_id(name: str) -> bool:
    """Whether this can be ORG/NAME of a hub."""
    return _HUB_ID.match(name) is not None


def steps(lineage: Lineage) -> Iterator[Lineage]:
    """Every operation that led here, the oldest first; one that is behind two parents comes twice."""
    for parent in lineage.parents:
        if parent.lineage is not None:
            yield from steps(parent.lineage)
    yield lineage


def _words(value: Any) -> list[str]:
    held = value if isinstance(value, list) else [value]
    return [word for word in held if isinstance(word, str)]
