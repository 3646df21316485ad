"""MODEL=WEIGHT, as a person writes it."""

from __future__ import annotations

import math

from surgeon.errors import UsageError


def parse_weight(text: str) -> tuple[str, float]:
    """("model", 0.5) from "model=0.5"; 1 where no number stands behind the last `=` (a path may hold one)."""
    model, equals, tail = text.rpartition("=")
    if not equals or not model:
        return text, 1.0
    try:
        weight = float(tail)
    except ValueError:
        return text, 1.0
    if not math.isfinite(weight):
        raise UsageError(f"the weight {tail} is not a finite number", text, "write MODEL=0.7")
    return model, weight
