"""Adapters as a person names them with their weights: ADAPTER=0.5."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from surgeon import model_ref
from surgeon.errors import UsageError
from surgeon.number import number


@dataclass(frozen=True)
class Weighted:
    """An adapter of a sum; role: its name in the plan's sources."""

    role: str
    name: str
    path: Path
    weight: float


def weighted(text: str, role: str) -> Weighted:
    """`ADAPTER` or `ADAPTER=WEIGHT`; a path that exists as written wins."""
    path, weight = text, 1.0
    left, equals, right = text.rpartition("=")
    if equals and not Path(text).exists():
        try:
            path, weight = left, number(right)
        except ValueError as error:
            raise UsageError(f"{right!r} is not a weight", f"--add {text}", "write ADAPTER=0.5") from error
        if not math.isfinite(weight):
            raise UsageError(f"the weight {right} is not finite", f"--add {text}", "write ADAPTER=0.5")
    found = model_ref.resolve(path)
    return Weighted(role, found.name, found.path, weight)
