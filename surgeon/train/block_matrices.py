"""The trained matrices of a model's blocks, for optimizers that hold some of their directions where they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from surgeon.errors import UsageError
from surgeon.train.trainable import block_prefix


def block_matrices(groups: Sequence[dict[str, Any]], model: Any, optimizer: str) -> dict[str, int]:
    """Name -> number of the block, of every trained tensor of two or more axes inside the blocks (of three: fused
    experts, a matrix each). Embeddings, the head and vectors are not among them. groups: with `names`.

    Raises UsageError on adapters and where several processes share the model: `optimizer` cannot work there.
    """
    from torch.distributed.tensor import DTensor

    flag = f"--optimizer {optimizer}"
    if hasattr(model, "peft_config"):
        raise UsageError(
            f"{optimizer} keeps directions of the model's own matrices, and an adapter has none to keep",
            flag,
            "fold the adapter first, or use --optimizer adamw",
        )
    inside = re.compile(re.escape(block_prefix(model)) + r"(\d+)\.")
    found: dict[str, int] = {}
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if isinstance(parameter, DTensor):
                raise UsageError(
                    f"{optimizer} needs whole matrices, and several processes share them", flag, "start one process"
                )
            match = inside.match(name)
            if match and parameter.ndim >= 2:
                found[name] = int(match[1])
    return found


def hold_left(weight: Tensor, basis: Tensor, reference: Tensor) -> None:
    """In place: B^T W becomes `reference` again, and what of W is orthogonal to B stays. weight: [.., m, n]; basis: B,
    [.., m, k], orthonormal columns; reference: [.., k, n]. On the weight and not on its update, so that the rounding
    of many steps does not add up."""
    weight.sub_(basis @ (basis.mT @ weight - reference))


def hold_right(weight: Tensor, basis: Tensor, reference: Tensor) -> None:
    """In place: W B^T becomes `reference` again. basis: B, [.., k, n], orthonormal rows; reference: [.., m, k]."""
    weight.sub_((weight @ basis.mT - reference) @ basis)
