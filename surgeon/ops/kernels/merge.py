"""A merge method of the registry on the tensors of one output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from surgeon import registry

COMPUTE = "float64"


def ROWWISE(options: Mapping[str, Any]) -> bool:  # noqa: N802 - a trait that depends on the options
    """Whether the method works element by element, so that rows can be merged apart."""
    return bool(registry.get("merge", options["method"]).trait("ROWWISE", False))


def merge(
    inputs: list[Tensor],
    seed: int,
    *,
    method: str,
    weights: list[float],
    options: dict[str, Any] | None = None,
    place: dict[str, Any] | None = None,
) -> Tensor:
    """`method` on float64 tensors of one shape; returns that shape, not rounded.

    A method that asks for `base` and `deltas` gets inputs[0] and the others (one weight per delta); one that asks for
    `tensors` gets all inputs (one weight each). `place` says where the tensor stands (see surgeon.merge.place).
    """
    supply = {
        "base": inputs[0],
        "deltas": inputs[1:],
        "tensors": inputs,
        "weights": weights,
        "seed": seed,
        "place": place,
    }
    return registry.get("merge", method).call(supply, options or {})
