"""The trained matrices of a model's blocks, for optimizers that hold some of their directions where they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.train.parallel import SOLO
from surgeon.train.trainable import block_prefix


def block_matrices(groups: Sequence[dict[str, Any]], model: Any, optimizer: str) -> dict[str, int]:
    """Name -> number of the block, of every trained tensor of two or more axes inside the blocks (of three: fused
    experts, a matrix each). Embeddings, the head and vectors are not among them. groups: with `names`.

    Raises UsageError on adapters: `optimizer` cannot work there.
    """
    if hasattr(model, "peft_config"):
        raise UsageError(
            f"{optimizer} keeps directions of the model's own matrices, and an adapter has none to keep",
            f"--optimizer {optimizer}",
            "fold the adapter first, or use --optimizer adamw",
        )
    inside = re.compile(re.escape(block_prefix(model)) + r"(\d+)\.")
    found: dict[str, int] = {}
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            match = inside.match(name)
            if match and parameter.ndim >= 2:
                found[name] = int(match[1])
    return found


def hold_left(weight: Tensor, basis: Tensor, reference: Tensor) -> None:
    """In place: B^T W becomes `reference` again, and what of W is orthogonal to B stays. weight: [.., m, n]; basis: B,
    [.., m, k], orthonormal columns, divided as the weight is; reference: [.., k, n], all rows of it. On the weight and
    not on its update, so that the rounding of many steps does not add up."""
    SOLO.local(weight).sub_(SOLO.local(basis) @ (along(basis, weight) - reference))


def hold_right(weight: Tensor, basis: Tensor, reference: Tensor) -> None:
    """In place: W B^T becomes `reference` again. basis: B, [.., k, n], orthonormal rows, all of them; reference:
    [.., m, k], those rows of it that this process holds of the weight."""
    own = SOLO.local(weight)
    own.sub_((own @ basis.mT - reference) @ basis)


def along(basis: Tensor, matrix: Tensor) -> Tensor:
    """B^T W, [.., k, n], of a basis [.., m, k] and a matrix [.., m, n]; the same in all processes that hold rows of
    them. Of fused experts, of which each process holds some, those."""
    from torch.distributed.tensor import DTensor

    product = SOLO.local(basis).mT @ SOLO.local(matrix)
    if isinstance(matrix, DTensor) and matrix.ndim == 2:
        dist.all_reduce(product, group=matrix.device_mesh.get_group())
    return product


def needed(factor: Tensor, matrix: Tensor) -> Tensor:
    """All of a factor that is divided as a matrix is; of fused experts, what belongs to those of this process."""
    return SOLO.full(factor) if matrix.ndim == 2 else SOLO.local(factor)
