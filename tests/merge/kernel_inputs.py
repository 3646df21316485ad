"""Tensors for the tests of merge methods, and the methods on them: whole, in pieces, and mergekit's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from surgeon.ops.kernels.merge import merge

# with a base, and what each needs to have something to do
BASED: dict[str, dict[str, Any]] = {
    "task_arithmetic": {"scale": 0.7},
    "residual": {"scale": 0.7},
    "ties": {"density": 0.3, "scale": 0.7},
    "dare_linear": {"density": 0.4, "rescale": "l1"},
    "dare_ties": {"density": 0.4},
    "della": {"density": 0.5, "epsilon": 0.2},
    "della_linear": {"density": 0.5, "epsilon": 0.2, "rescale": "l1"},
    "breadcrumbs": {"density": 0.5, "gamma": 0.1},
    "breadcrumbs_ties": {"density": 0.5, "gamma": 0.1},
    "model_stock": {},
    "sce": {"select_topk": 0.4},
    "nuslerp": {},
}
UNWEIGHTED = ("model_stock", "sce")


def changes(
    num: int, shape: tuple[int, ...] = (37, 24), seed: int = 0, size: float = 0.05
) -> tuple[Tensor, list[Tensor]]:
    """(base, deltas), float64."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator, dtype=torch.float64)
    return base, [torch.randn(shape, generator=generator, dtype=torch.float64) * size for _ in range(num)]


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def weights_for(method: str, num: int) -> list[float]:
    return [1.0] * num if method in UNWEIGHTED else [0.7, 0.5, 0.9][:num]


def ours(
    method: str,
    base: Tensor,
    deltas: Sequence[Tensor],
    weights: list[float] | None = None,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    weights = weights_for(method, len(deltas)) if weights is None else weights
    return merge([base, *deltas], seed, method=method, weights=weights, options=options)


def without_base(method: str, tensors: Sequence[Tensor], weights: list[float], **options: Any) -> Tensor:
    from surgeon import registry

    based = "tensors" in registry.get("merge", method).supplied
    return merge(list(tensors), 0, method=method, weights=weights, options=options, base=based)


def in_pieces(method: str, base: Tensor, deltas: Sequence[Tensor], step: int, seed: int = 0, **options: Any) -> Tensor:
    """As the executor does it: `step` rows at a time, with what is known of the tensor kept between them."""
    inputs, memo = [base, *deltas], dict[str, Any]()
    runs = [(start, min(start + step, len(base))) for start in range(0, len(base), step)]

    def pieces() -> Iterator[list[Tensor]]:
        return ([tensor[first:last] for tensor in inputs] for first, last in runs)

    weights = weights_for(method, len(deltas))
    parts = [
        merge(
            [tensor[rows[0] : rows[1]] for tensor in inputs], seed, rows, tuple(base.shape), pieces, memo,
            method=method, weights=weights, options=options,
        )
        for rows in runs
    ]  # fmt: skip
    return torch.cat(parts)


def theirs(method: str, base: Tensor | None, tensors: Sequence[Tensor], **parameters: Any) -> Tensor:
    """mergekit's kernel in float64, on deltas where there is a base, on the models themselves without one."""
    from mergekit.merge_methods import merge_tensors

    models = list(tensors) if base is None else [base, *(base + delta for delta in tensors)]
    index = None if base is None else 0
    merged: Tensor = merge_tensors(models, method, base_index=index, parameters=parameters, dtype=torch.float64)
    return merged


def ulps(found: Tensor, expected: Tensor) -> int:
    """The most units in the last place of float32 between two tensors, each rounded to float32 first."""
    return int((_place(found.float()) - _place(expected.float())).abs().max())


def _place(values: Tensor) -> Tensor:
    """The number of float32 values between 0 and each, with its sign."""
    bits = values.view(torch.int32).to(torch.int64)
    return torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def same_bits(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(found.contiguous().view(torch.int64), expected.contiguous().view(torch.int64))
