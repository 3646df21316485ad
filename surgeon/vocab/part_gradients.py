"""Gradients of new rows through a frozen model, with the same bytes for any number of threads.

On the CPU a step is cut into parts, each is computed by one thread, and their gradients are added in order. On a GPU a
step is one part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgeon.vocab.threads import spread

# of a part: sums of losses that only tell of the progress, and the gradient of each trained tensor (None: zero)
PartResult = tuple[list[float], list[Tensor | None]]
Step = Callable[[Callable[[Any], PartResult], Sequence[Any] | np.ndarray, int], PartResult]


@contextmanager
def gradients(device: torch.device) -> Iterator[Step]:
    """`step(function, items, size)`: the results of `function` for every `size` items, added in order."""

    with spread() as run:

        def step(function: Callable[[Any], PartResult], items: Sequence[Any] | np.ndarray, size: int) -> PartResult:
            size = len(items) if device.type == "cuda" else size
            found = run(function, [items[a : a + size] for a in range(0, len(items), size)])
            losses = [sum(part) for part in zip(*(losses for losses, _ in found), strict=True)]
            return losses, [_total(part) for part in zip(*(grads for _, grads in found), strict=True)]

        yield step


def _total(parts: Sequence[Tensor | None]) -> Tensor | None:
    total: Tensor | None = None
    for part in parts:
        if part is not None:
            total = part if total is None else total + part
    return total


def draws(count: int, batch: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`steps` times `batch` (at most `count`) of 0 to count - 1: in an order drawn again when it is used up."""
    batch = min(batch, count)
    order = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:batch]
        order = order[batch:]
