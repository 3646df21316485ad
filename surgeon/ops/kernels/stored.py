"""Rows that lie ready in a table of the plan."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

ROWWISE = False
COMPUTE = "stored"


def stored(table: Mapping[str, Tensor], shape: tuple[int, ...], *, matrix: str, suffix: str = ".rows") -> Tensor:
    """The table's tensor `matrix` + `suffix` as it is (already in the output's dtype), of the planned shape."""
    rows = table[f"{matrix}{suffix}"]
    if tuple(rows.shape) != tuple(shape):
        raise ValueError(f"{matrix}: the table holds {tuple(rows.shape)}, the plan says {tuple(shape)}")
    return rows
