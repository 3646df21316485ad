"""The loss of language modelling."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def next_token(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next token, summed over the labels that count, in nats; arithmetic in float32.

    logits: [rows, tokens, V]. labels: int64 [rows, tokens], already the next token; -100 does not count.
    Result: a scalar; the loop divides by the number of labels of the whole step.
    """
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return F.cross_entropy(flat, labels.reshape(-1), ignore_index=-100, reduction="sum")
