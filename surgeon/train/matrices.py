"""The matrix of embeddings or of a head as the model holds it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def matrix_of(module: Any) -> Tensor:
    """[V, H]. Where PEFT trains single rows of it (trainable_token_indices), `module.weight` would make a new whole
    matrix of both at every look, which it cannot where they are divided among processes: this is the one beneath."""
    rows = rows_of(module)
    found: Tensor = module.weight if rows is None else rows.get_base_layer().weight
    return found


def rows_of(module: Any) -> Any:
    """PEFT's layer of the single rows that are trained; None where there are none."""
    return getattr(module, "token_adapter", None)
