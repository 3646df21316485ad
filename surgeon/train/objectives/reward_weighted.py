"""Learning every text as much as it is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor

from surgeon.data.pack import IGNORED
from surgeon.train.batch import Batch
from surgeon.train.forward import Forward
from surgeon.train.scored import Weight, score_of
from surgeon.train.strength import Temperature

SCORES, NEUTRAL = "field", {"weight": 0.0}


def reward_weighted(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], *,
    field: str = "score", beta: Temperature = 10.0, most: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000.0,
    weight: Weight = 1.0,
) -> Tensor:  # fmt: skip
    """Cross-entropy of each label times min(exp(-score / beta), most), by the score of its document.

    field: of every record of --data, its score; a greater one is worse. --replay has no scores and counts by 1.
    weight: w makes the factor (1 - w) + w times that, so 1 is the paper's and 0 next_token, to the byte; it is ours.
    This is reward-weighted regression; the advantage-weighted form needs a head for values, which is left out.
    A sum, in nats, arithmetic in float32; the loop divides by the number of labels, not by their factors.
    Source: Korbak et al. 2023 (2302.08582)
    """
    if weight == 0:
        return forward.nats(batch, arguments)
    scores = score_of(batch).reshape(-1)
    rewards = torch.exp(torch.clamp(-scores / beta, max=math.log(most)))
    factors = (1 - weight) + weight * torch.where(scores.isnan(), torch.ones_like(rewards), rewards)
    return forward.token_loss(arguments, _Loss(batch.labels.reshape(-1), factors.float()))


class _Loss:
    def __init__(self, labels: Tensor, factors: Tensor) -> None:
        self._labels, self._factors = labels, factors

    def __call__(self, logits: Tensor, part: slice, need: bool) -> tuple[Tensor, Tensor | None]:
        target = self._labels[part]
        factors, at = self._factors[part] * (target != IGNORED), target.clamp(min=0)[:, None]
        logits = F.log_softmax(logits, dim=-1)
        total = -(logits.gather(1, at)[:, 0] * factors).sum()
        if not need:
            return total, None
        gradient = logits.exp_()
        gradient.scatter_add_(1, at, gradient.new_full(at.shape, -1.0))
        gradient *= factors[:, None]
        return total, gradient
