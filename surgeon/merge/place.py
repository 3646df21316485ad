"""Where a tensor stands in the model, for methods whose settings vary over depth or parts."""

from __future__ import annotations

from typing import Any

from surgeon.arch.family import Family


def place_of(name: str, family: Family) -> dict[str, Any] | None:
    """{"block": number, "blocks": depth, "part": "attention" | "mlp" | None}; None outside the blocks."""
    block = family.unit(name).block
    if block is None:
        return None
    stem = family.role(name).partition(".")[0]
    part = {"attention": "attention", "mlp": "mlp", "moe": "mlp"}.get(stem)
    return {"block": block, "blocks": family.depth, "part": part}
