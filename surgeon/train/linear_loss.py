"""The head's matrix product and the cross-entropy in one: the logits of all tokens are never held at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 28}  # of logits at a time


def linear_nats(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignored: int = -100) -> Tensor:
    """Cross-entropy of `hidden @ weight.T + bias` against labels, summed over those that count, in nats.

    hidden: [tokens, H]; weight: [V, H]; bias: [V]; labels: int64 [tokens]. Products are taken in the type of autocast
    where it is on, else in the type of `hidden`; softmax, sum and the gradient of the weights in float32. Gradients
    are made on the way forward, chunk by chunk (three products a token, as without chunks), and only those that are
    asked for: a frozen head costs two. Differentiable once, in hidden, weight and bias.

    torch has `F.linear_cross_entropy` from 2.13 on; see benchmarks/cpt_cpu.py for the two side by side.
    """
    dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
    result: Tensor = _LinearNats.apply(hidden, weight, bias, labels, ignored, dtype or hidden.dtype)
    return result


class _LinearNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignored: int, dtype: torch.dtype
    ) -> Tensor:
        need = ctx.needs_input_grad[:3]
        if weight.shape[0] == 0 or hidden.shape[0] != labels.shape[0]:
            raise ValueError(f"{tuple(hidden.shape)} hidden states and {tuple(labels.shape)} labels")
        ctx.types = hidden.dtype, weight.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            total, *ctx.grads = _chunks(hidden, weight.to(dtype), bias, labels, ignored, dtype, need)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        found = [None if g is None else g * outputs[0].to(g.dtype) for g in ctx.grads]
        if found[0] is not None:
            found[0] = found[0].to(ctx.types[0])
        if found[1] is not None:
            found[1] = found[1].to(ctx.types[1])
        return *found, None, None, None


def _chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignored: int, dtype: torch.dtype,
    need: tuple[bool, ...],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    vocab = weight.shape[0]
    size = max(1, CHUNK_ELEMENTS[hidden.device.type] // vocab)
    total = hidden.new_zeros((), dtype=torch.float32)
    of_hidden = torch.empty_like(hidden, dtype=dtype) if need[0] else None
    of_weight = torch.zeros_like(weight, dtype=torch.float32) if need[1] else None
    of_bias = hidden.new_zeros(vocab, dtype=torch.float32) if bias is not None and need[2] else None
    for start in range(0, hidden.shape[0], size):
        some, target = hidden[start : start + size].to(dtype), labels[start : start + size]
        logits = (some @ weight.t()).float()
        if bias is not None:
            logits += bias.float()
        logits = F.log_softmax(logits, dim=-1)
        counts = target != ignored
        at = target.clamp(min=0)[:, None]
        total -= (logits.gather(1, at)[:, 0] * counts).sum()
        if not any(need):
            continue
        gradient = logits.exp_()
        gradient.scatter_add_(1, at, gradient.new_full(at.shape, -1.0))
        gradient *= counts[:, None]
        if of_bias is not None:
            of_bias += gradient.sum(0)
        narrow = gradient.to(dtype)
        if of_hidden is not None:
            of_hidden[start : start + size] = narrow @ weight
        if of_weight is not None:
            if dtype == torch.float32:
                of_weight.addmm_(narrow.t(), some)
            else:
                of_weight += narrow.t() @ some
    return total, of_hidden, of_weight, of_bias
