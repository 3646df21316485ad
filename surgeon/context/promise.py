"""What extend-context promised: frequencies by the formula, and numbers at the new positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.arch.configuration import settings_of
from surgeon.arch.positions import read_positions
from surgeon.context.frequencies import formula_holds, inverse_frequencies
from surgeon.errors import SurgeonError
from surgeon.loading import quiet

Check = tuple[str, bool, str]
PROBE = 24  # tokens at a time


def check_frequencies(before: Mapping[str, Any], after: Mapping[str, Any], where: str) -> list[Check]:
    """Of the rotary modules of the model that `after` describes: those of changed blocks follow the formula, those of
    all others have the same bits as before. Raises SurgeonError where the model has no such modules."""
    old, new = inverse_frequencies(before, where), inverse_frequencies(after, where)
    if not old:
        raise SurgeonError(
            "the model has no rotary positions, though its configuration has rotary parameters",
            where,
            "only models with rotary positions are extended",
        )
    was, now = read_positions(before, where).rope, read_positions(after, where).rope
    checks: list[Check] = []
    for kind, values in new.items():
        if kind not in now:
            raise SurgeonError(
                f"the model's rotary module {kind!r} is not in its configuration", where, "this family is not extended"
            )
        which = "" if len(now) == 1 else f" of {kind} blocks"
        if now[kind] == was[kind]:
            checks.append((f"inverse frequencies{which} are the parent's", old[kind] == values, "bit by bit"))
        else:
            checks.append((f"inverse frequencies{which} are base^(-2i/d)", *formula_holds(values, now[kind])))
    return checks


def finite_logits(after: Mapping[str, Any], old_length: int | None, where: str) -> Check:
    """On a tiny random model of the same configuration: finite logits at the first positions, across the old end and
    up to the new one, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    tiny = _tiny(after, where)
    ends = {n for n in (PROBE, old_length, read_positions(after, where).length) if n is not None and n >= PROBE}
    starts = sorted({end - PROBE for end in ends} | {end - PROBE // 2 for end in ends if end == old_length})
    with quiet(), torch.inference_mode():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(settings_of(tiny), dtype=torch.float32).eval()
        ids = torch.randint(3, 90, (1, PROBE), generator=torch.Generator().manual_seed(1))
        broken = []
        for start in starts:
            places = torch.arange(start, start + PROBE)[None]
            if not bool(model(ids, position_ids=places, use_cache=False).logits.isfinite().all()):
                broken.append(start)
    last = starts[-1] + PROBE - 1
    detail = f"positions 0 to {last:,} in {len(starts)} places of {PROBE}, on a tiny model of the same configuration"
    return "logits at all positions are finite", not broken, detail + (f"; not at {broken[0]:,}" if broken else "")


def _tiny(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configuration with small widths, the positions as they are; factors for every frequency are left out."""
    from surgeon.expand.shrink import shrink

    whole = settings_of(config)
    positions = read_positions(config, where)
    text = whole.get_text_config()
    small = shrink(text.to_dict()) | {positions.length_key: positions.length}
    if not any(entry.get("long_factor") or entry.get("mrope_section") for entry in positions.rope.values()):
        small["rope_parameters"] = text.to_dict()["rope_parameters"]
    return small
