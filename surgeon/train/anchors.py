"""The trained tensors as they were at the start of a run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Anchors:
    """Clones, made once, for whoever asks first; before the run takes its first step or goes on from a state."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self._held: dict[str, Tensor] | None = None
        self._sealed = False

    def __call__(self) -> Mapping[str, Tensor]:
        """By name, float32, without a graph, nobody's to change."""
        if self._held is None:
            if self._sealed:
                raise RuntimeError("anchors are asked for when a method is made: the tensors have moved since")
            with torch.no_grad():
                self._held = {name: p.detach().clone() for name, p in self._parameters.items()}
        return self._held

    def seal(self) -> None:
        """The tensors begin to move."""
        self._sealed = True
