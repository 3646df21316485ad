"""Relative paths in settings that are written as models of a hub are: `clients/texts` is a path where it lies here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePath
from typing import Any

from surgeon.checkpoint.lineage import Lineage


def without_places(lineage: Lineage) -> Lineage:
    """The lineage with the last name of each path in its settings (and in those of its parents) that is there now,
    seen from the current folder, as PATH, NAME=PATH or NAME=PATH:WEIGHT. The names of parents that came from a hub
    stay, whatever lies here."""
    return _hidden(lineage, _from_hub(lineage))


def _hidden(lineage: Lineage, names: Collection[str]) -> Lineage:
    parents = [
        parent if parent.lineage is None else parent.model_copy(update={"lineage": _hidden(parent.lineage, names)})
        for parent in lineage.parents
    ]
    return lineage.model_copy(update={"parents": parents, "settings": _value(lineage.settings, names)})


def _from_hub(lineage: Lineage) -> set[str]:
    """The names of all parents that have a revision, with the revision and without it."""
    found: set[str] = set()
    for parent in lineage.parents:
        found |= {parent.name, parent.name.partition("@")[0]} if parent.revision is not None else set()
        found |= _from_hub(parent.lineage) if parent.lineage is not None else set()
    return found


def _value(value: Any, names: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _value(held, names) for key, held in value.items()}
    if isinstance(value, list):
        return [_value(held, names) for held in value]
    return _text(value, names) if isinstance(value, str) and "/" in value else value


def _text(text: str, names: Collection[str]) -> str:
    for head, path, tail in _readings(text):
        if path not in names and not PurePath(path).is_absolute() and _is_there(path):
            return head + PurePath(path).name + ("/" if path.endswith("/") else "") + tail
    return text


def _readings(text: str) -> list[tuple[str, str, str]]:
    """What stands before a path, the path, and what stands behind it: as a whole first, as where corpora are read."""
    name, equals, right = text.partition("=")
    starts = [("", text), *([(name + equals, right)] if equals else [])]
    found = [(head, path, "") for head, path in starts]
    for head, path in starts:
        left, colon, weight = path.rpartition(":")
        found += [(head, left, colon + weight)] if colon else []
    return found


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
