"""Values put over those that a recipe's file holds: `--set`, and scales, which are lists of them with a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgeon.errors import UsageError, did_you_mean
from surgeon.settings import key_value

PAPER = "paper"  # the file as it is written
SCALE = "scale"


def with_values(value: dict[str, Any], sets: Sequence[str], where: str) -> tuple[dict[str, Any], str]:
    """(`value`, the content of a recipe's file, changed in place; its scale).

    sets: `scale=NAME` and what goes over that scale: STAGE.SETTING=VALUE, vars.NAME=VALUE, inputs.NAME=VALUE. The keys
    of a scale are written in the same way; an input may be a stage there, which makes the model that a person would
    give, before all other stages. Raises UsageError on a scale, and on a key, that the recipe does not have.
    """
    given = [key_value(text) for text in sets]
    asked = [str(new) for key, new in given if key == SCALE]
    if len(set(asked)) > 1:
        raise UsageError(f"two scales are asked for: {' and '.join(asked)}", "--set scale=...", "leave one out")
    scale = asked[0] if asked else PAPER
    made: dict[str, Any] = {}
    for key, new in _scale(value, scale, where).items():
        place = f"{where}: scales.{scale}"
        override(value, str(key), new, place)
        if isinstance(new, dict) and str(key).startswith("inputs."):
            name = str(key).removeprefix("inputs.")
            made[name] = value["inputs"].pop(name)
    if made:
        value["stages"] = made | _mapping(value, "stages", where)
    for text, (key, new) in zip(sets, given, strict=True):
        if key != SCALE:
            override(value, key, new, f"--set {text}")
    return value, scale


def override(value: dict[str, Any], key: str, new: Any, where: str) -> None:
    """Set one value of a recipe: of a variable or an input that it has, or a setting of one of its stages."""
    head, dot, tail = key.partition(".")
    stages = _mapping(value, "stages", where)
    if dot and head in ("vars", "inputs"):
        known = _mapping(value, head, where)
        if tail not in known:
            raise UsageError(f"the recipe has no {head} {tail!r}", where, did_you_mean(tail, known))
        known[tail] = new
    elif dot and head in stages:
        stage = _mapping(stages, head, where)
        used = _mapping(stage, "uses", where).get(tail)
        if isinstance(used, str):
            raise UsageError(f"{head} uses {used!r} as its {tail}", where, f"set what {used!r} is")
        settings = _mapping(stage, "with", where)
        settings[_spelt(tail, settings)] = new
    else:
        hint = did_you_mean(head, [*stages, "vars", "inputs", SCALE])
        raise UsageError(f"{key!r} is not STAGE.SETTING or vars.NAME", where, hint)


def _mapping(value: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """What stands under a key, an empty mapping where nothing does."""
    if value.get(key) is None:
        value[key] = {}
    found = value[key]
    if not isinstance(found, dict):
        raise UsageError(f"{key} is no mapping", where, "write `name: value` lines under it")
    return found


def _scale(value: dict[str, Any], scale: str, where: str) -> dict[str, Any]:
    scales = _mapping(value, "scales", where)
    if PAPER in scales:
        raise UsageError(f"{PAPER} is the file itself, not one of its scales", where, "give the scale another name")
    if scale == PAPER:
        return {}
    if scale not in scales:
        known = [PAPER, *scales]
        raise UsageError(f"the recipe has no scale {scale!r}", f"--set scale={scale}", did_you_mean(scale, known))
    return _mapping(scales, scale, where)


def _spelt(key: str, settings: dict[str, Any]) -> str:
    """The key as the stage writes it already: seq-len and seq_len are one setting."""
    return next((k for k in settings if k.replace("-", "_") == key.replace("-", "_")), key)
