"""Trainable convex weights: the softmax of logits over the candidates of each new row and the mean.

Shape suffixes: V old rows, N new rows, K candidates of a new row, D columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from surgeon.vocab.hull import Combination


class Simplex:
    """New rows of one matrix, float32, as softmax(logits) over old rows and, last, their mean.

    start: of each new row old id -> first weight, above zero; what they lack of 1 is the mean's. Only `logits`
    [N, K + 1] is trained; a candidate that is not there has the logit -inf and stays at weight 0.
    """

    def __init__(
        self, start: Sequence[dict[int, float]], usable: Sequence[int], old_VD: Tensor, bias_V: Tensor | None
    ) -> None:
        self.start, self.usable = start, usable
        self.old_VD, self.bias_V = old_VD.detach(), None if bias_V is None else bias_V.detach()
        width = max(len(row) for row in start)
        ids_NK = torch.tensor([[*row, *[0] * (width - len(row))] for row in start])
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

    def combination(self) -> Combination:
        """The weights in float64."""
        weights = torch.softmax(self.logits.detach().to("cpu", torch.float64), 1)
        rows = [
            list(zip(row, held.tolist(), strict=False)) for row, held in zip(self.start, weights[:, :-1], strict=True)
        ]
        return Combination.of(rows, weights[:, -1].tolist(), self.usable)
