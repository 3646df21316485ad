"""How deltas lie to their base and to each other, in lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_A_PAIR = ("cosine", "null", "z", "sign_conflicts", "disparity")


def lines(vectors: Mapping[str, Any]) -> list[str]:
    """The whole model, and the units that are unlike the same part of other blocks; of all units: --json."""
    total, near = vectors["total"], vectors.get("kinship", {})
    found = []
    copied = vectors.get("copied", [0] * len(vectors["models"]))
    for name, relative, count in zip(vectors["models"], total["relative"], copied, strict=True):
        own = f", cosine of the weights with the base's {near[name]['cosine']:.4f}" if name in near else ""
        without = f" without {count:,} tensors that are copied from it, unmeasured" if count else ""
        found.append(f"{name}: |delta|/|base| {number(relative)}{without}{own}")
    found += [
        f"{pair['a']} and {pair['b']}: " + ", ".join(f"{w} {number(pair[w])}" for w in _OF_A_PAIR)
        for pair in total["pairs"]
    ]
    return found + [
        f"{far['unit']} of {far['model']}: |delta|/|base| {number(far['relative'])}, of this part in other blocks "
        f"{number(far['median'])}"
        for far in vectors["outliers"]
    ]


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"
