"""Which rotary parameters change for what a person asks for, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgeon.arch.configuration import settings_of
from surgeon.arch.positions import ALL, Positions, read_positions
from surgeon.context.edit import with_positions
from surgeon.context.frequencies import KNOWN
from surgeon.context.scaling import TIED_TO_A_LENGTH, scaled
from surgeon.errors import SurgeonError, UsageError

GLOBAL = "full_attention"  # the kind of block that sees the whole context


@dataclass(frozen=True)
class Wanted:
    """None leaves a thing as it is. base: of the frequencies. length: in tokens. scaling: as `--rope-scaling`."""

    base: float | None = None
    length: int | None = None
    scaling: str | None = None
    lower_base: bool = False


@dataclass(frozen=True)
class Changed:
    """config: the new one. left: kinds of blocks that stay as they are. notes: what a person should know."""

    config: dict[str, Any]
    before: Positions
    after: Positions
    left: tuple[str, ...]
    notes: tuple[str, ...]


def check_wanted(wanted: Wanted) -> None:
    """Raise UsageError where nothing is asked for."""
    if wanted.base is None and wanted.length is None and wanted.scaling is None:
        raise UsageError(
            "nothing is to be changed", "extend-context", "give --rope-base, --max-length or --rope-scaling"
        )


def changed(config: Mapping[str, Any], wanted: Wanted, where: str) -> Changed:
    """The configuration with the positions that are wanted; a pure function of the two.

    Raises UsageError on what does not extend anything, SurgeonError on a model without rotary positions and on what
    transformers does not validate.
    """
    check_wanted(wanted)
    before = read_positions(config, where)
    _check_rotary(config, before, where)
    _check_length(before, wanted, where)
    kinds = (GLOBAL,) if before.by_kind else (ALL,)
    if kinds[0] not in before.rope:
        raise SurgeonError(
            f"no kind of block is called {GLOBAL}, but {', '.join(before.rope)}",
            where,
            "which of them see the whole context is not known of this family: it is not extended",
        )
    rope = {kind: dict(entry) for kind, entry in before.rope.items()}
    for kind in kinds:
        rope[kind] = _entry(rope[kind], before, wanted, where)
    new = with_positions(config, rope, wanted.length, where)
    after = read_positions(new, where)
    left = tuple(kind for kind in before.rope if kind not in kinds)
    return Changed(new, before, after, left, _notes(new, before, after, kinds, left))


def _check_rotary(config: Mapping[str, Any], before: Positions, where: str) -> None:
    hint = "only models whose configuration holds a rotary base are extended: others have none to change"
    if not before.rope:
        raise SurgeonError(f"{config.get('model_type')} has no rotary parameters in its configuration", where, hint)
    inside = config[before.inner] if before.inner else config
    if inside.get("alibi"):
        raise SurgeonError("this model has ALiBi and no rotary positions (alibi is true)", where, hint)
    kinds = sorted({str(entry["rope_type"]) for entry in before.rope.values()} - {*KNOWN})
    if kinds:
        raise SurgeonError(f"the rotary positions are of the kind {kinds[0]!r}", where, f"known: {', '.join(KNOWN)}")


def _check_length(before: Positions, wanted: Wanted, where: str) -> None:
    if wanted.length is None:
        return
    if before.length is None:
        raise SurgeonError(
            "the configuration has no longest text to change",
            where,
            "leave --max-length out: its positions have no end",
        )
    if wanted.length < before.length:
        raise UsageError(
            f"{wanted.length:,} tokens are fewer than the {before.length:,} that the model takes now",
            f"--max-length {wanted.length}",
            f"give {before.length} or more; shorter texts need no change",
        )


def _entry(entry: dict[str, Any], before: Positions, wanted: Wanted, where: str) -> dict[str, Any]:
    own, kind = float(entry["rope_theta"]), entry["rope_type"]
    if wanted.base is not None and wanted.base < own and not wanted.lower_base:
        raise UsageError(
            f"the base {wanted.base:,g} is below the present {own:,g}: positions would turn faster, not reach further",
            f"--rope-base {wanted.base:g}",
            f"give {own:g} or more, or --lower-base if this is meant",
        )
    longer = wanted.length is not None and wanted.length != before.length
    if wanted.scaling is None and kind in TIED_TO_A_LENGTH and longer:
        raise UsageError(
            f"the model has the rotary scaling {kind}, whose numbers are of {before.length:,} tokens",
            f"--max-length {wanted.length}",
            "say what takes its place: --rope-scaling none, or another one",
        )
    if wanted.scaling is not None:
        if kind == "proportional":
            raise SurgeonError(
                "proportional rotary positions are part of this architecture and take no other scaling",
                where,
                "leave --rope-scaling out",
            )
        entry = scaled(entry, wanted.scaling, int(entry.get("original_max_position_embeddings") or before.length or 0))
    return entry if wanted.base is None else entry | {"rope_theta": float(wanted.base)}


def _notes(
    config: Mapping[str, Any], before: Positions, after: Positions, kinds: tuple[str, ...], left: tuple[str, ...]
) -> tuple[str, ...]:
    lines = []
    for kind in kinds:
        old, new = before.rope[kind], after.rope[kind]
        which = "" if kind == ALL else f"{kind} blocks: "
        lines.append(
            f"{which}base {old['rope_theta']:,g} ({old['rope_type']}) -> {new['rope_theta']:,g} ({new['rope_type']})"
        )
        if new["rope_type"] == "dynamic" and new != old and after.length != before.length:
            lines.append(
                f"{which}dynamic turns slower behind the longest text alone, {after.length:,} tokens now: up to there "
                "nothing is scaled; without --max-length it would begin behind "
                f"{before.length:,}"
            )
    for kind in left:
        entry = before.rope[kind]
        lines.append(
            f"{kind} blocks are left at base {entry['rope_theta']:,g} ({entry['rope_type']}): they see a window"
        )
    kinds_of_blocks = getattr(settings_of(config).get_text_config(), "layer_types", None) or ()
    if not left and len(set(kinds_of_blocks)) > 1:
        lines.append("all kinds of blocks share the rotary parameters: those with a window change too")
    return tuple(lines)
