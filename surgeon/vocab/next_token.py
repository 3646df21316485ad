"""The next-token loss of rows of text and its gradients in new rows, through a frozen model.

Shape suffixes: R rows of text, S tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from surgeon.vocab.extended import Extended
from surgeon.vocab.part_gradients import PartResult, Step

_PART = 2  # rows of text of a part


def next_token(
    model: Extended, step: Step, rows_RS: np.ndarray, leaves: Sequence[Tensor]
) -> tuple[float, list[Tensor | None]]:
    """(nats a token, its gradient in each of `leaves`), the mean over the tokens behind the first of each row.

    leaves: what was given to `model.set`, or tensors it came from; None for one that the loss does not reach. The same
    bytes for any number of threads.
    """
    num_targets = len(rows_RS) * (rows_RS.shape[1] - 1)

    def part(rows: np.ndarray) -> PartResult:
        ids = torch.from_numpy(rows).to(model.device)
        logits = model.logits(ids)[:, :-1].float()
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum") / num_targets
        return [float(loss.detach())], list(torch.autograd.grad(loss, leaves, allow_unused=True))

    (loss,), grads = step(part, rows_RS, _PART)
    return loss, grads


def backward(made: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    """Carry gradients of what was made on to what it was made from; None is zero."""
    held = [(tensor, grad) for tensor, grad in zip(made, grads, strict=True) if grad is not None]
    torch.autograd.backward([tensor for tensor, _ in held], [grad for _, grad in held])
