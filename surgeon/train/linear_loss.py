"""The head's matrix product and a loss of its logits in one: the logits of all tokens are never held at once."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from surgeon.train.cross_entropy import CrossEntropy

CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 28}  # of logits at a time


class TokenLoss(Protocol):
    """A loss that is a sum over tokens, with its own gradient. One with an attribute `narrow` that is true takes
    logits in the type of the products."""

    def __call__(self, logits: Tensor, part: slice, need: bool) -> tuple[Tensor, Tensor | None]:
        """(the sum over the tokens of `part`, its gradient in their logits if `need`).

        logits: [tokens of the part, V], float32 without `narrow`, and may be overwritten. part: of all tokens of the
        call, in order.
        """


def linear_nats(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignored: int = -100, *, compiled: bool = False
) -> Tensor:
    """Cross-entropy of `hidden @ weight.T + bias` against labels, summed over those that count, in nats.

    labels: int64 [tokens]; compiled: see `CrossEntropy`, and `linear_loss` for the rest. torch has
    `F.linear_cross_entropy` from 2.13 on; see benchmarks/cpt_cpu.py for the two side by side.
    """
    if hidden.shape[0] != labels.shape[0]:
        raise ValueError(f"{tuple(hidden.shape)} hidden states and {tuple(labels.shape)} labels")
    return linear_loss(hidden, weight, bias, CrossEntropy(labels, ignored, narrow=compiled))


def linear_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, loss: TokenLoss) -> Tensor:
    """A loss of the logits `hidden @ weight.T + bias`, a scalar in float32.

    hidden: [tokens, H]; weight: [V, H]; bias: [V]. Products are taken in the type of autocast where it is on, else in
    the type of `hidden`; the loss, its sum and the gradient of the weights in float32. Gradients are made on the way
    forward, chunk by chunk (three products a token, as without chunks), and only those that are asked for: a frozen
    head costs two. Differentiable once, in hidden, weight and bias.
    """
    dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
    result: Tensor = _LinearLoss.apply(hidden, weight, bias, loss, dtype or hidden.dtype)
    return result


def logits_loss(logits: Tensor, loss: TokenLoss) -> Tensor:
    """The same of logits that are there, [tokens, V]: in float32 there is a chunk of them at a time."""
    result: Tensor = _LinearLoss.apply(logits, None, None, loss, logits.dtype)
    return result


def chunk_tokens(vocab: int, device: torch.device, *, narrow: bool = False) -> int:
    """Tokens of a chunk; more of logits that are not held in float32 beside."""
    return max(1, (2 if narrow else 1) * CHUNK_ELEMENTS[device.type] // vocab)


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, loss: TokenLoss, dtype: torch.dtype
    ) -> Tensor:
        need = ctx.needs_input_grad[:3]
        if weight is not None and weight.shape[0] == 0:
            raise ValueError("a head without rows")
        ctx.types = hidden.dtype, None if weight is None else weight.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            cast = None if weight is None else weight.to(dtype)
            total, *ctx.grads = _chunks(hidden, cast, bias, loss, dtype, need)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        found = [None if g is None else g * outputs[0].to(g.dtype) for g in ctx.grads]
        if found[0] is not None:
            found[0] = found[0].to(ctx.types[0])
        if found[1] is not None:
            found[1] = found[1].to(ctx.types[1])
        return *found, None, None


def _chunks(
    hidden: Tensor, weight: Tensor | None, bias: Tensor | None, loss: TokenLoss, dtype: torch.dtype,
    need: tuple[bool, ...],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    vocab = hidden.shape[1] if weight is None else weight.shape[0]
    as_they_are = getattr(loss, "narrow", False)
    size = chunk_tokens(vocab, hidden.device, narrow=as_they_are and dtype != torch.float32)
    total = hidden.new_zeros((), dtype=torch.float32)
    of_hidden = torch.empty_like(hidden, dtype=dtype) if need[0] else None
    of_weight = torch.zeros_like(weight, dtype=torch.float32) if weight is not None and need[1] else None
    of_bias = hidden.new_zeros(vocab, dtype=torch.float32) if bias is not None and need[2] else None
    for start in range(0, hidden.shape[0], size):
        part = slice(start, min(start + size, hidden.shape[0]))
        some = hidden[part].to(dtype)
        value, gradient = loss(logits_of(some, weight, bias, narrow=as_they_are), part, any(need))
        total += value
        if gradient is None:
            continue
        if of_bias is not None:
            of_bias += gradient.sum(0, dtype=torch.float32)
        narrow = gradient.to(dtype)
        if of_hidden is not None:
            of_hidden[part] = narrow if weight is None else narrow @ weight
        if of_weight is not None:
            _add_product(of_weight, narrow.t(), some)
    return total, of_hidden, of_weight, of_bias


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    """total += one @ other, with products of half precision summed in float32; torch has that as one call on a GPU."""
    if one.dtype == total.dtype:
        total.addmm_(one, other)
    elif total.device.type == "cuda":
        torch.addmm(total, one, other, out_dtype=total.dtype, out=total)
    else:
        total += one @ other


def logits_of(hidden: Tensor, weight: Tensor | None, bias: Tensor | None, *, narrow: bool = False) -> Tensor:
    """Logits, a tensor of their own: in float32, or, if `narrow`, in the type of `hidden` where there is no bias.
    Products are taken in the type of `hidden`. Without a weight, `hidden` are the logits."""
    if weight is None:
        return hidden.to(hidden.dtype if narrow else torch.float32, copy=True)
    logits = hidden @ weight.t()
    if narrow and bias is None:
        return logits
    logits = logits.float()
    if bias is not None:
        logits += bias.float()
    return logits
