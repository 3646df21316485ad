"""The head of a model card: the YAML that a hub reads, with what the parents' cards say of licence and language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from surgeon.checkpoint.lineage import Lineage
from surgeon.errors import SurgeonError

CARD = "README.md"
# keys that belong together: a licence of another name is "other" with its name and where to read it
LICENCE_KEYS = ("license", "license_name", "license_link")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_HEAD = re.compile(rb"\A(?:\xef\xbb\xbf)?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LONGEST_HEAD = 2**20  # bytes; the longest heads hold the results of hundreds of evaluations
_UNREADABLE = (OSError, yaml.YAMLError, RecursionError, ValueError)
_ABSENT = ("", "~", "null")
_MERGES = ("merge", "merge-task-vectors")
# parts of config.json of models that see or hear, and what the names of their tasks hold on a hub
_MEDIA = ("vision_config", "audio_config")
_MEDIA_TASKS = ("image", "visual", "video", "audio", "speech", "document", "any-to-any")
_CAUSAL = ("ForCausalLM", "LMHeadModel")


def read_front(folder: Path) -> dict[str, Any]:
    """The YAML at the head of a folder's card, every scalar as the text that stands there; empty where there is no
    card, or no head that is a YAML mapping: a card is a text for people, and a model whose card is damaged is as good
    as one without."""
    try:
        found = _load(folder)
    except _UNREADABLE:
        return {}
    return found if isinstance(found, dict) else {}


def check_front(folder: Path) -> None:
    """Raise SurgeonError where a card has a head that is no YAML mapping: a hub takes none."""
    try:
        found = _load(folder)
        wrong = "" if found is None or isinstance(found, dict) else "it is no mapping"
    except _UNREADABLE as error:
        wrong = " ".join(str(error).split()) or type(error).__name__
    if wrong:
        raise SurgeonError(
            f"the head of the card is not YAML of a model card: {wrong}",
            str(folder / CARD),
            "mend it, or remove the file: push makes a card anew",
        )


def _load(folder: Path) -> Any:
    """What the head holds; None where there is none. Raises one of _UNREADABLE."""
    # Scalars stay text. The language `no` is Norwegian and no boolean, as on the hub; and there are none that have the
    # form of a date or a number and are none.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    path = folder / CARD
    if not path.is_file():  # a pipe would be waited for
        return None
    with path.open("rb") as held:
        head = _HEAD.match(held.read(_LONGEST_HEAD))
    return yaml.load(head.group(1).decode("utf-8"), Loader=loader) if head else None


def licence_of(front: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `front` that name a licence; empty where it names none."""
    told = {key: front[key] for key in LICENCE_KEYS if key in front and _is_word(front[key])}
    return told if "license" in told else {}


def front_of(
    lineage: Lineage, parents: Sequence[Mapping[str, Any]], config: Mapping[str, Any], adapter: bool
) -> dict[str, Any]:
    """The head of the card of an output, in the keys of the hub's model cards.

    parents: the heads of the direct parents' cards, in the order of the lineage. A licence is passed on where all of
    them name the same one, and left out otherwise; languages are those of all.
    """
    bases = list(dict.fromkeys(hub_bases(lineage, adapter)))
    merged = any(step.operation in _MERGES for step in steps(lineage))
    front: dict[str, Any] = {"base_model": bases} if bases else {}
    if bases:
        front["base_model_relation"] = "adapter" if adapter else "merge" if merged else "finetune"
    front["library_name"] = "peft" if adapter else "transformers"
    if task := _task(config, parents, adapter):
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
    return f"---\n{yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)}---\n"


def hub_bases(lineage: Lineage, adapter: bool = False) -> Iterator[str]:
    """The models of a hub that this one goes back to: on each way up the nearest parent that has a hub's name.

    adapter: of one, which fits the model it was made for and no earlier one: behind a model that is on no hub there
    is nothing to be named.
    """
    for parent in lineage.parents:
        name = parent.name.partition("@")[0]
        if is_hub_id(name):
            yield name
        elif parent.lineage is not None and (not adapter or parent.role == "adapter"):
            yield from hub_bases(parent.lineage, adapter)


def is_hub_id(name: str) -> bool:
    """Whether this can be ORG/NAME of a hub."""
    return _HUB_ID.match(name) is not None


def steps(lineage: Lineage) -> Iterator[Lineage]:
    """Every operation that led here, the oldest first; one that is behind two parents comes twice."""
    for parent in lineage.parents:
        if parent.lineage is not None:
            yield from steps(parent.lineage)
    yield lineage


def _task(config: Mapping[str, Any], parents: Sequence[Mapping[str, Any]], adapter: bool) -> str | None:
    """What the model is for, in the hub's words: what a parent's card says, unless the parent had media and this one
    has none, or the other way round; else what the class of the model tells."""
    media = any(isinstance(config.get(key), Mapping) for key in _MEDIA)
    for told in (word for p in parents for word in _words(p.get("pipeline_tag"))):
        if adapter or media == any(part in told for part in _MEDIA_TASKS):
            return told
    if media:
        return "image-text-to-text" if isinstance(config.get("vision_config"), Mapping) else None
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if any(name.endswith("ForMaskedLM") for name in names):
        return "fill-mask"
    return "text-generation" if adapter or any(name.endswith(_CAUSAL) for name in names) else None


def _words(value: Any) -> list[str]:
    held = value if isinstance(value, list) else [value]
    return [word for word in held if isinstance(word, str) and _is_word(word)]


def _is_word(value: Any) -> bool:
    """Whether this says something, and can be written: a text, or a list of them."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(word, str) and _is_word(word) for word in value)
    return isinstance(value, str) and value not in _ABSENT and not any("\ud800" <= c <= "\udfff" for c in value)
