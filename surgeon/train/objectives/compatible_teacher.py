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
from surgeon.train.hook import Hook, Run
from surgeon.train.strength import Strength, Temperature
from surgeon.train.teacher import Teacher, prefix_of

Momentum = Annotated[float, Field(ge=0, le=1)]


class CompatibleTeacher(Teacher, Hook):
    """Its weights t, before every step but the first: t <- m t + (1 - m) / 2 (student + start). float32.

    After n steps with one student t is m^n start + (1 - m^n) (student + start) / 2: it goes to the middle of the two
    and no further. Written as two interpolations, so where student and start are equal t does not move by a bit.
    """

    def __init__(self, run: Run, m: float) -> None:
        weights = {name: anchor.clone() for name, anchor in run.anchors().items()}
        super().__init__(run.forward, weights, prefix_of(run), run.world, run.parameters)
        self._start, self._student, self._m = run.anchors(), run.parameters, m

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        # not after the update: frozen rows are put back behind that, and other hooks may move the student
        if step == 1:
            return
        for name, own in self.weights.items():
            student, start = (self.world.local(t[name].detach()) for t in (self._student, self._start))
            self.world.local(own).lerp_(student.lerp(start, 0.5), 1 - self._m)

    def state(self) -> dict[str, Any]:
        if self.world.size == 1:
            return {"weights": dict(self.weights)}
        return {"weights": {name: self.world.gathered(own) for name, own in self.weights.items()}}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        for name, own in self.weights.items():
            self.world.local(own).copy_(self.world.part(state["weights"][name], own))


def compatible(run: Run, options: Mapping[str, Any]) -> CompatibleTeacher:
    """A teacher that begins as the model at the start of the run."""
    return CompatibleTeacher(run, options["m"])


MAKES, KEEPS, NEUTRAL = {"teacher": compatible}, ("anchors", "average"), {"weight": 0.0}
REMEMBERS = True


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
