"""What old text loses to new output rows as a term of a training loss, at a price that rises while it is too much.

Shape suffixes: N new rows, P positions, D columns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from surgeon.vocab.old_loss import OldModel

_ELEMENTS = 1 << 24  # of logits held at a time


class Loss(NamedTuple):
    """value: nats a token. rows [N, D], bias [N] (None where the head has none): its gradients, in their dtype."""

    value: float
    rows: Tensor
    bias: Tensor | None


def old_text_loss(old: OldModel, at_P: Tensor, rows_ND: Tensor, bias_N: Tensor | None) -> Loss:
    """The mean of log(1 + sum_j exp(l'_j) / Z) over the positions `at_P` of the probe, and its gradients.

    rows that new ones replace count out of the sum, as in `NewRowsBeside`.
    """
    head, step = old.head, max(1, _ELEMENTS // max(len(rows_ND), 1))
    leaves = [t.detach().requires_grad_() for t in (rows_ND, bias_N) if t is not None]
    totals = [torch.zeros_like(leaf) for leaf in leaves]
    value = 0.0
    for at in at_P.split(step):
        raw = old.hidden[at] @ leaves[0].T
        logits = head.cap(head.scale * (raw if bias_N is None else raw + leaves[1]))
        taken = (logits - old.log_z[at, None].to(logits)).exp().sum(1) - old.gone[at].to(logits)
        loss = taken.log1p().sum() / len(at_P)
        value += float(loss.detach())
        for total, grad in zip(totals, torch.autograd.grad(loss, leaves), strict=True):
            total += grad
    return Loss(value, totals[0], totals[1] if bias_N is not None else None)


class Price:
    """Nats of the target text that a nat of old text is worth: the multiplier of loss <= budget, by dual ascent.

    After each step it grows by exp(rate * (loss / budget - 1)), the exponent held between -rate and rate, so that
    where the fit settles old text loses the budget, or less at a price that has fallen to nothing.
    Source: Boyd and Vandenberghe 2004, Convex Optimization, section 5.5 (the multiplier); exponentiated steps keep it
    above zero.
    """

    def __init__(self, budget: float, first: float, rate: float = 0.05) -> None:
        self.budget, self.value, self.rate = budget, first, rate

    def update(self, loss: float) -> None:
        self.value *= math.exp(self.rate * max(-1.0, min(1.0, loss / self.budget - 1)))
