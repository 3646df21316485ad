"""Learning a text from a teacher that comes along half of the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from surgeon.train.batch import Batch
from surgeon.train.distillation import Divergence, distilled
from surgeon.train.forward import Forward
from surgeon.train.hook import Hook, Run, undivided
from surgeon.train.prefix import shared_prefix
from surgeon.train.strength import Strength, Temperature
from surgeon.train.teacher import Teacher

Momentum = Annotated[float, Field(ge=0, le=1)]


class CompatibleTeacher(Teacher, Hook):
    """Its weights t, before every step but the first: t <- m t + (1 - m) / 2 (student + start). float32.

    After n steps with one student t is m^n start + (1 - m^n) (student + start) / 2: it goes to the middle of the two
    and no further. Written as two interpolations, so where student and start are equal t does not move by a bit.
    """

    def __init__(self, run: Run, m: float) -> None:
        super().__init__(run.forward, {n: a.clone() for n, a in run.anchors().items()}, shared_prefix(run.forward))
        self._start, self._student, self._m = run.anchors(), run.parameters, m

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        # not after the update: frozen rows are put back behind that, and other hooks may move the student
        if step == 1:
            return
        for name, own in self.weights.items():
            middle = self._student[name].detach().lerp(self._start[name], 0.5)
            own.lerp_(middle, 1 - self._m)

    def state(self) -> dict[str, Any]:
        return {"weights": dict(self.weights)}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        for name, own in self.weights.items():
            own.copy_(state["weights"][name])


def compatible(run: Run, options: Mapping[str, Any]) -> CompatibleTeacher:
    """A teacher that begins as the model at the start of the run."""
    undivided(run, "a teacher that comes along")
    return CompatibleTeacher(run, options["m"])


MAKES, KEEPS, NEUTRAL = {"teacher": compatible}, ("anchors", "average"), {"weight": 0.0}


def compatible_teacher(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], teacher: Teacher, *,
    weight: Strength = 1.0, m: Momentum = 0.9, temperature: Temperature = 1.0,
) -> Tensor:  # fmt: skip
    """Cross-entropy plus `weight` T^2 KL(teacher || student); the teacher is an average of student and start.

    m: share of its old weights that it keeps at a step, 0.9 in the authors' code (see CompatibleTeacher). At every
    label that counts; a sum, in nats, arithmetic in float32. Of the paper's losses this is the soft one over the
    vocabulary; that of texts with texts is `topology`, and pictures have no counterpart here. Weight 0 is next_token,
    to the byte.
    Source: Zhu et al. 2023 (2308.07437), CTP, compatible momentum
    """
    if weight == 0:
        return forward.nats(batch, arguments)
    return distilled(forward, teacher, batch, arguments, Divergence(weight, temperature))
