"""Cross-entropy of labels as a loss over chunks of logits: as written, or compiled into two passes over them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Both = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class CrossEntropy:
    """Of the labels, over those that count, in nats; softmax and sum in float32.

    narrow: takes logits in the type of the products too, and gives a gradient in that type; it is compiled then
    (torch.compile): where logits are in half precision, a chunk is read twice and written once, and none of it is
    held in float32. Without it, and where no gradient is asked for, it runs as it is written.
    """

    def __init__(self, labels: Tensor, ignored: int = -100, *, narrow: bool = False) -> None:
        self._labels, self._ignored, self.narrow = labels, ignored, narrow

    def __call__(self, logits: Tensor, part: slice, need: bool) -> tuple[Tensor, Tensor | None]:
        target = self._labels[part]
        counts = target != self._ignored
        at = target.clamp(min=0)
        if self.narrow and need:
            for given in (logits, at, counts):  # the last chunk has fewer tokens
                torch._dynamo.maybe_mark_dynamic(given, 0)
            return _compiled()(logits, at, counts)
        logits = F.log_softmax(logits.float(), dim=-1)
        at = at[:, None]
        total = -(logits.gather(1, at)[:, 0] * counts).sum()
        if not need:
            return total, None
        gradient = logits.exp_()
        gradient.scatter_add_(1, at, gradient.new_full(at.shape, -1.0))
        gradient *= counts[:, None]
        return total, gradient


def nats_and_gradient(logits: Tensor, at: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """(the summed loss in float32, its gradient in the type of the logits). logits: [tokens, V]; at: labels, counts:
    whether they do, [tokens]. Written for a compiler: as it stands it holds several matrices of the logits' size."""
    wide = logits.float()
    normaliser = torch.logsumexp(wide, dim=-1, keepdim=True)
    right = wide.gather(1, at[:, None])
    total = ((normaliser - right)[:, 0] * counts).sum()
    columns = torch.arange(logits.shape[1], device=logits.device)
    gradient = ((wide - normaliser).exp() - (columns == at[:, None]).float()) * counts[:, None]
    return total, gradient.to(logits.dtype)


@functools.cache
def _compiled() -> Both:
    compiled: Both = torch.compile(nats_and_gradient)
    return compiled
