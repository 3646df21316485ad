"""config.json with other positions: in the spelling that it has, checked by what transformers reads from it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from surgeon.arch.configuration import settings_of
from surgeon.arch.positions import ALL, Positions, positions_of, reason_of
from surgeon.errors import SurgeonError

# where the base stood before transformers 5 (GPT-NeoX has a name of its own); the others are of local attention
BASES = ("rope_theta", "rotary_emb_base")
OLD = (*BASES, "rope_scaling", "rope_local_base_freq", "global_rope_theta", "local_rope_theta")
_APART = ("rope_theta", "partial_rotary_factor")  # beside rope_scaling in the old spelling, not in it


def with_positions(
    config: Mapping[str, Any], rope: Mapping[str, Mapping[str, Any]], length: int | None, where: str
) -> dict[str, Any]:
    """`config` with these rotary parameters (of all kinds of blocks that have some) and this length.

    Keys stay where they stand: rope_theta and rope_scaling, or rope_parameters. Only where the old spelling cannot say
    it (one base for two kinds of blocks) is the new one written. What is given back is what transformers reads as
    wanted, with everything else as it was; raises SurgeonError where there is no such configuration, or where
    transformers' own validation warns of it.
    """
    before, known, others = _read(config, where)
    wanted = {kind: dict(sorted(entry.items())) for kind, entry in rope.items()}
    problem = ""
    for spell in (_untouched, _as_it_is, _new):
        candidate = deepcopy(dict(config))
        inside = candidate[before.inner] if before.inner else candidate
        if length is not None:
            inside[before.length_key] = length
        spell(inside, before, wanted)
        found, said, rest = _read(candidate, where)
        warnings = [line for line in said if line not in known]
        if spell is _untouched and found.rope != wanted:
            continue
        if warnings:
            problem = problem or warnings[0]
        elif found.rope != wanted or found.length != (before.length if length is None else length):
            problem = problem or f"it reads {found.to_json()}"
        elif rest != others:
            problem = problem or "other settings change with them"
        else:
            return candidate
    raise SurgeonError(
        f"transformers does not take these positions: {problem}",
        where,
        "choose another --rope-scaling, --rope-base or --max-length",
    )


def _untouched(inside: dict[str, Any], before: Positions, rope: Mapping[str, Mapping[str, Any]]) -> None:
    """Only the length is another: what does not follow from it stays as it stands."""


def _as_it_is(inside: dict[str, Any], before: Positions, rope: Mapping[str, Mapping[str, Any]]) -> None:
    kind = next((k for k in rope if rope[k] != before.rope[k]), list(rope)[-1])
    entry = rope[kind]
    if inside.get("rope_parameters") and not inside.get("rope_scaling"):
        held = inside["rope_parameters"]
        inside["rope_parameters"] = _spelled(held, before, rope)
        inside |= {key: entry["rope_theta"] for key in BASES if key in inside}
        return
    if entry["rope_theta"] != before.rope[kind]["rope_theta"]:
        inside[next((key for key in BASES if key in inside), "rope_theta")] = entry["rope_theta"]
    scaling = {key: value for key, value in entry.items() if key not in _APART}
    held = inside.get("rope_scaling") or {}
    if "rope_theta" in held:
        scaling["rope_theta"] = entry["rope_theta"]
    if "type" in held:
        scaling["type"] = entry["rope_type"]
    if entry["rope_type"] != "default":
        inside["rope_scaling"] = scaling
    elif held:
        inside["rope_scaling"] = None


def _spelled(held: Mapping[str, Any], before: Positions, rope: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if not before.by_kind:
        return _ordered(held, rope[ALL])
    return dict(held) | {kind: _ordered(held.get(kind) or {}, entry) for kind, entry in rope.items()}


def _ordered(held: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """`entry` with its keys in the order that they had."""
    return {key: entry[key] for key in held if key in entry} | dict(entry)


def _new(inside: dict[str, Any], before: Positions, rope: Mapping[str, Mapping[str, Any]]) -> None:
    for key in OLD:
        inside.pop(key, None)
    inside["rope_parameters"] = dict(rope[ALL]) if ALL in rope else {kind: dict(entry) for kind, entry in rope.items()}


def _read(config: Mapping[str, Any], where: str) -> tuple[Positions, list[str], dict[str, Any]]:
    """What transformers reads, what its validation warns of, and all settings but the positions."""
    with _warnings() as said:
        try:
            settings = settings_of(config)
            settings.get_text_config().validate_rope()
        except Exception as error:  # whatever the class raises
            raise SurgeonError(
                f"transformers does not take these positions: {reason_of(error)}",
                where,
                "choose others, or restore config.json",
            ) from error
    found = positions_of(settings, config)
    rest = settings.to_dict()
    text = rest[found.inner] if found.inner else rest
    for key in ("rope_parameters", found.length_key, "max_position_embeddings", *OLD):
        text.pop(key, None)
    return found, said, rest


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What transformers' validation of rotary parameters warns of, which is not shown but refused."""
    from transformers.utils import logging as of_transformers

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.modeling_rope_utils")
    level, propagate = logger.level, logger.propagate
    # a warning that was given once in this process counts here all the same
    of_transformers.warning_once.cache_clear()
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
