"""Learning good text, and unlearning bad text token by token."""

from __future__ import annotations

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
from surgeon.train.strength import Strength

SCORES, NEUTRAL, EXAMPLE = "field", {"weight": 0.0}, {"threshold": 0.5}


def unlikelihood(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], *,
    threshold: Annotated[float, Field(allow_inf_nan=False)], field: str = "score", alpha: Strength = 1.0,
    weight: Weight = 1.0,
) -> Tensor:  # fmt: skip
    """Cross-entropy of documents of a score up to `threshold`, and -alpha log(1 - p) of the labels of the others.

    field: of every record of --data, its score; a greater one is worse. A record is a segment of the paper's: give
    each sentence its own, or a document one. --replay has no scores and is learned. alpha: 1 is that of their
    configurations for toxicity and for personal data (0.01 for code style). Where their threshold is 0 their code
    takes the score itself for the share of the unlikelihood; here 0 is a threshold like any other. The `weight` of
    all this is ours: at w a label of a bad document counts (1 - w) -log p + w alpha -log(1 - p), so 1 is the paper's
    and 0 next_token, to the byte. log(1 - p) is taken over the other tokens, where the authors' code clips 1 - p at
    1e-20: no gradient is lost where a bad token is certain. A sum, in nats, arithmetic in float32.
    Source: Korbak et al. 2023 (2302.08582); token-level unlikelihood of Welleck et al. 2020 (1908.04319)
    """
    if weight == 0:
        return forward.nats(batch, arguments)
    bad = score_of(batch).reshape(-1) > threshold  # what has no score is not bad
    return forward.token_loss(arguments, _Loss(batch.labels.reshape(-1), bad, weight, alpha))


class _Loss:
    def __init__(self, labels: Tensor, bad: Tensor, weight: float, alpha: float) -> None:
        self._labels, self._bad, self._weight, self._alpha = labels, bad, weight, alpha

    def __call__(self, logits: Tensor, part: slice, need: bool) -> tuple[Tensor, Tensor | None]:
        target, bad = self._labels[part], self._bad[part]
        counts, at = target != IGNORED, target.clamp(min=0)[:, None]
        ones = torch.ones_like(logits[:, 0])
        learned = torch.where(bad, ones * (1 - self._weight), ones) * counts
        unlearned = torch.where(bad, ones * (self._weight * self._alpha), 0 * ones) * counts
        logs = F.log_softmax(logits, dim=-1)
        own = logs.gather(1, at)
        total = -(own[:, 0] * learned).sum()
        others = logs.scatter(1, at, -torch.inf)
        rest = others.logsumexp(-1)  # log(1 - p)
        total = total - (rest * unlearned).sum()
        if not need:
            return total, None
        p = own.exp()
        gradient = logs.exp() * learned[:, None]
        # of -log(1 - p): p at the label, and -p times the softmax of the others elsewhere
        gradient -= (others - rest[:, None]).exp() * (p * unlearned[:, None])
        gradient.scatter_add_(1, at, p * unlearned[:, None] - learned[:, None])
        return total, gradient
