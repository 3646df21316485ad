"""Learning from oneself, with the right answer put in the first place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from surgeon.train.batch import Batch
from surgeon.train.distillation import Divergence, distilled
from surgeon.train.forward import Forward
from surgeon.train.strength import Strength
from surgeon.train.teacher import Teacher, of_run

MAKES, KEEPS, ANY_TEACHER = {"teacher": of_run}, ("anchors",), True
NEUTRAL = {"weight": 0.0}


def logit_swap(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], teacher: Teacher, *, weight: Strength = 0.3
) -> Tensor:
    """Cross-entropy plus `weight` KL to the teacher, whose greatest logit and whose logit of the label are exchanged.

    The target keeps the teacher's whole distribution, values and entropy, and says the label; where the teacher is
    right already it is the teacher's own. At every label that counts; a sum, in nats, arithmetic in float32.
    weight: 0.3 is what an implementation by others uses; the paper's is not known to us. 0 is next_token, to the byte.
    Source: Jiang et al. 2024 (2407.10804), logit swap self-distillation
    """
    if weight == 0:
        return forward.nats(batch, arguments)
    return distilled(forward, teacher, batch, arguments, Divergence(weight, change=swapped))


def swapped(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [tokens, V] with the greatest of each token and that of its label exchanged.

    Of several greatest ones the label's own counts first (nothing changes then), else the first. The exchange of two
    given places is its own inverse; this is idempotent, because behind it the label's logit is the greatest.
    """
    at = labels[:, None]
    greatest, top = logits.max(-1, keepdim=True)
    own = logits.gather(1, at)
    return logits.scatter(1, top, own).scatter(1, at, greatest)
