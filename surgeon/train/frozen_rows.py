"""Rows of trained matrices that must not move: their update is undone, for decay and momentum move what has no
gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surgeon.train.parallel import World


class FrozenRows:
    """The rows outside of a mask, as they were when this was made. masks: bool [rows] by the name of a parameter, true
    where it is trained. With several processes each holds its own part."""

    def __init__(self, world: World, parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        self._world, self._parameters = world, parameters
        rows = {name: world.local_rows(mask, parameters[name]) for name, mask in masks.items()}
        # by numbers: a mask would be counted on the host at every step
        self._at = {name: (~mask).nonzero()[:, 0] for name, mask in rows.items()}
        self._held = {name: world.local(parameters[name]).detach()[at].clone() for name, at in self._at.items()}

    @torch.no_grad()
    def clear(self) -> None:
        """No gradient: they count neither for its norm nor for the moments."""
        for name, at in self._at.items():
            gradient = self._parameters[name].grad
            if gradient is not None:
                self._world.local(gradient).index_fill_(0, at, 0)

    @torch.no_grad()
    def put_back(self) -> None:
        """Byte for byte what they were."""
        for name, at in self._at.items():
            self._world.local(self._parameters[name]).index_copy_(0, at, self._held[name])
