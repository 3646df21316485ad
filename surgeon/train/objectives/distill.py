"""Learning a text and staying near a teacher on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from surgeon.train.batch import Batch
from surgeon.train.distillation import Divergence, distilled
from surgeon.train.forward import Forward
from surgeon.train.strength import Strength, Temperature
from surgeon.train.teacher import Teacher, of_run

MAKES, KEEPS, ANY_TEACHER = {"teacher": of_run}, ("anchors",), True
NEUTRAL = {"weight": 0.0}


def distill(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], teacher: Teacher, *,
    weight: Strength = 1.0, temperature: Temperature = 2.0,
) -> Tensor:  # fmt: skip
    """Cross-entropy plus `weight` T^2 KL(teacher || student) at temperature T, on the text that is trained on.

    The teacher is the model at the start of the run, or that of --teacher. At every label that counts; a sum, in nats,
    arithmetic in float32. temperature: 2 is the paper's; the weight is ours. Weight 0 is next_token, to the byte.
    Source: Li and Hoiem 2016 (1606.09282), learning without forgetting
    """
    if weight == 0:
        return forward.nats(batch, arguments)
    return distilled(forward, teacher, batch, arguments, Divergence(weight, temperature))
