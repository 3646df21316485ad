"""Trainable convex weights: the softmax of logits over the candidates of each new row and the mean.

Shape suffixes: V old rows, N new rows, K candidates of a new row, D columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from surgeon.vocab.hull import Combination

_ELEMENTS = 1 << 24  # of scores held at a time


class Simplex:
    """New rows of one matrix, float32, as softmax(logits) over old rows and, last, their mean.

    start: of each new row old id -> first weight, above zero; what they lack of 1 is the mean's. Only `logits`
    [N, K + 1] is trained; a candidate that is not there has the logit -inf and stays at weight 0. room: how many
    further candidates can `join` each row.
    """

    def __init__(
        self,
        start: Sequence[dict[int, float]],
        usable: Sequence[int],
        old_VD: Tensor,
        bias_V: Tensor | None,
        room: int = 0,
    ) -> None:
        self.usable = usable
        self.old_VD, self.bias_V = old_VD.detach(), None if bias_V is None else bias_V.detach()
        width = max(len(row) for row in start) + room
        self.lengths = torch.tensor([len(row) for row in start], device=old_VD.device)
        ids_NK = torch.tensor([[*row, *[next(iter(row), usable[0])] * (width - len(row))] for row in start])
        weights = torch.zeros(len(start), width + 1, dtype=torch.float64)
        for n, row in enumerate(start):
            weights[n, : len(row)] = torch.tensor(list(row.values()), dtype=torch.float64)
        weights[:, -1] = 1 - weights.sum(1)
        self.ids_NK = ids_NK.to(old_VD.device)
        self.logits = weights.log().float().to(old_VD.device).requires_grad_()
        mean_ids = torch.tensor(usable, device=old_VD.device)
        self.mean_D = self.old_VD[mean_ids].mean(0)
        self.mean_ids = mean_ids

    def rows(self) -> Tensor:
        """[N, D]."""
        weights = torch.softmax(self.logits, 1)
        mixed = embedding_bag(self.ids_NK, self.old_VD, per_sample_weights=weights[:, :-1].contiguous(), mode="sum")
        return mixed + weights[:, -1:] * self.mean_D

    def biases(self) -> Tensor | None:
        """[N], None where the head has no bias."""
        if self.bias_V is None:
            return None
        weights = torch.softmax(self.logits, 1)
        mean = self.bias_V[self.mean_ids].mean()
        return (weights[:, :-1] * self.bias_V[self.ids_NK]).sum(1) + weights[:, -1] * mean

    @torch.no_grad()
    def join(self, gradient_ND: Tensor, count: int, weight: float) -> None:
        """Up to `count` usable old rows join each new row with about `weight`: those towards which a loss with this
        gradient in the rows falls most steeply, where it falls at all.

        Source: the linear step of Frank and Wolfe 1956; here what joins is trained on with the rest.
        """
        rows_ND, whole_N = self.rows(), self.logits.logsumexp(1)
        usable_UD = self.old_VD[self.mean_ids]
        place_V = torch.zeros(len(self.old_VD), dtype=torch.int64, device=self.old_VD.device)
        place_V[self.mean_ids] = torch.arange(len(self.mean_ids), device=self.old_VD.device)
        for numbers in torch.arange(len(rows_ND), device=self.old_VD.device).split(
            max(1, _ELEMENTS // len(usable_UD))
        ):
            falls_BU = gradient_ND[numbers] @ usable_UD.T - (gradient_ND[numbers] * rows_ND[numbers]).sum(1)[:, None]
            falls_BU.scatter_(1, place_V[self.ids_NK[numbers]], torch.inf)  # an empty place holds the first again
            best = falls_BU.topk(min(count, len(usable_UD)), dim=1, largest=False)
            for values_B, at_B in zip(best.values.T, best.indices.T, strict=True):
                chosen = numbers[values_B < 0]
                slot = self.lengths[chosen]
                self.ids_NK[chosen, slot] = self.mean_ids[at_B[values_B < 0]]
                self.logits[chosen, slot] = whole_N[chosen] + math.log(weight)
                self.lengths[chosen] += 1

    def combination(self) -> Combination:
        """The weights in float64."""
        weights = torch.softmax(self.logits.detach().to("cpu", torch.float64), 1)
        rows = [
            list(zip(ids[:length], held[:length], strict=True))
            for ids, held, length in zip(
                self.ids_NK.tolist(), weights[:, :-1].tolist(), self.lengths.tolist(), strict=True
            )
        ]
        return Combination.of(rows, weights[:, -1].tolist(), self.usable)
