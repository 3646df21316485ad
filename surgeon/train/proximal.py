"""A pull towards the start that is taken behind the optimizer's step, in closed form."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surgeon.train.hook import Hook, Run
from surgeon.train.parallel import SOLO


class Proximal(Hook):
    """After each update: parameter <- argmin of |x - parameter|^2 / 2 + c |x - start|^2 / 2, c = lr strength F.

    That is (parameter + c start) / (1 + c), computed as the way of c / (1 + c) from the parameter to the start, so
    that c = 0 is the parameter and a great c is the start, to the bit. lr: of the parameter's group, at this step. It
    is decoupled from the optimizer's own scale, as decoupled weight decay is, and stable at any strength.
    fisher: F by name, float32; None: 1. Holds nothing that a resumed run would not make again.
    """

    def __init__(self, run: Run, strength: float, fisher: Mapping[str, Tensor] | None = None) -> None:
        self._run, self._strength, self._fisher = run, strength, fisher
        self._anchors: Mapping[str, Tensor] = run.anchors() if strength else {}

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        if self._strength == 0:
            return
        for group in self._run.optimizer.param_groups:
            for parameter in group["params"]:
                name = self._run.name_of(parameter)
                own, start = SOLO.local(parameter), SOLO.local(self._anchors[name])
                fisher = None if self._fisher is None else SOLO.local(self._fisher[name])
                way = _way(group["lr"] * self._strength, fisher)
                own.copy_(torch.where(way == 0, own, torch.lerp(own, start, way)))


def _way(scale: float, fisher: Tensor | None) -> Tensor:
    """c / (1 + c) for c = scale F, without 0 / 0 or infinity / infinity; float32, computed in float64."""
    c = torch.tensor(scale, dtype=torch.float64) if fisher is None else fisher.double() * scale
    return (1 / (1 + 1 / c)).float()
