"""Measures a change of a tensor while it is computed with torch: what survives the rounding, how deltas lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgeon.ops.delta_meter import DeltaMeter
from surgeon.ops.delta_sums import DeltaSums
from surgeon.ops.evaluate import Evaluator, Run
from surgeon.ops.finite import refuse
from surgeon.ops.plan import OutTensor
from surgeon.ops.survival import Change, change_of

_PIECE = 1 << 16


@dataclass
class ChangeMeter:
    """For one output tensor. models: roles whose deltas the kernel gets behind the base; none where it gets none."""

    out: OutTensor
    change: Change
    evaluator: Evaluator
    models: tuple[str, ...]

    @classmethod
    def of(cls, out: OutTensor, evaluator: Evaluator) -> ChangeMeter | None:
        """None where the tensor is not a change of another one."""
        change = change_of(out.source)
        if change is None:
            return None
        return cls(out, change, evaluator, tuple(change.exact.options.get("models") or ()))

    def __post_init__(self) -> None:
        self._meter = DeltaMeter(len(self.models), _PIECE, rounded=True)
        self._inputs: Sequence[Tensor] = ()

    @property
    def sums(self) -> DeltaSums:
        return self._meter.sums

    def exact(self, rows: Run | None, cache: dict[str, Any]) -> Tensor:
        """The changed values before rounding; the inputs that they came from are kept for `add`."""
        self._inputs, value = self.evaluator.applied(self.change.exact, self.out.shape, self.out.name, rows, cache)
        return value

    def add(self, exact: Tensor, stored: Tensor) -> None:
        """What `exact` gave last, and what is stored of it."""
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number is refused by name
            self._add(exact, stored)

    def _add(self, exact: Tensor, stored: Tensor) -> None:
        base = self._inputs[self.change.exact.inputs.index(self.change.base)]
        change, vectors = exact - base, [base, *self._inputs[1 : 1 + len(self.models)]]
        meant, before, after = _single(change), _single(base), _single(stored)
        deltas = [_single(d) for d in vectors[1:]]
        for start in range(0, before.numel(), _PIECE):
            piece = slice(start, start + _PIECE)
            numpy = before[piece].numpy()
            if self.models:
                self._meter.vectors(numpy, [d[piece].numpy() for d in deltas], partial(_wide, vectors, piece))
            else:
                self._meter.sums.elements += len(numpy)
            wide = partial(_wide, (base, change, stored), piece)
            self._meter.survival(numpy, meant[piece].numpy(), after[piece].numpy(), wide)
        if not self._meter.finite():
            refuse(self.change.exact, self.out, stored, self.evaluator)


def _wide(tensors: Sequence[Tensor], piece: slice) -> list[NDArray[np.float64]]:
    return [t.reshape(-1)[piece].double().numpy() for t in tensors]


def _single(values: Tensor) -> Tensor:
    return values.to(torch.float32).reshape(-1)
