"""What theta(w) is made of, in memory: where it starts, the reference of the deltas, each model alone at weight 1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.index import Checkpoint
from surgeon.merge.align import Alignment
from surgeon.merge.ancestry import Member
from surgeon.merge.evaluation import evaluator
from surgeon.ops.plan import Copy, OutTensor, Source

if TYPE_CHECKING:
    from torch import Tensor

    from surgeon.ops.evaluate import Evaluator


@dataclass(frozen=True)
class Parts:
    """theta(w) = start + sum of w_i x (ends_i - reference), by name.

    `ends_i` is kept in place of the delta: in float32 it is the model's own weights exactly, which a rounded
    difference would not be. Where a model has no delta its end is the reference itself, the same object.
    """

    start: dict[str, Tensor]
    reference: dict[str, Tensor]
    ends: tuple[dict[str, Tensor], ...]

    @property
    def all(self) -> tuple[dict[str, Tensor], ...]:
        return (self.start, self.reference, *self.ends)


@dataclass(frozen=True)
class Sources:
    """Where the parts come from. names: of the output's tensors, with type and shape. merged: those that are merged.
    onto: the model that counts in full besides (method residual), None for the reference."""

    alignment: Alignment
    inputs: Mapping[str, Checkpoint]
    outs: Mapping[str, OutTensor]
    merged: frozenset[str]
    members: tuple[Member, ...]
    onto: Member | None = None

    def of(self, name: str) -> tuple[Source, ...]:
        """Of one tensor, in the order of `Parts.all`."""
        alignment = self.alignment
        if name not in self.merged:
            return (Copy(alignment.target.role, name),) * (2 + len(self.members))
        reference = alignment.reference(name)
        start = reference
        if self.onto is not None and alignment.delta(self.onto, name) is not None:
            start = alignment.whole(self.onto, name)
        ends = [
            alignment.whole(member, name) if alignment.delta(member, name) is not None else reference
            for member in self.members
        ]
        return (start, reference, *ends)

    def num_bytes(self) -> int:
        """What the parts take in float32."""
        return sum(4 * math.prod(out.shape) * len(_distinct(self.of(name))) for name, out in self.outs.items())

    def parts(self, names: Iterable[str]) -> Parts:
        """The tensors `names`, float32 (those that are not floating point as they are stored)."""
        named = {name: self.of(name) for name in names}
        reads = evaluator(self.alignment, self.inputs, (s for sources in named.values() for s in sources))
        columns: list[dict[str, Tensor]] = [{} for _ in range(2 + len(self.members))]
        for name, sources in named.items():
            held = [(source, _read(reads, source, self.outs[name])) for source in _distinct(sources)]
            for column, wanted in zip(columns, sources, strict=True):
                column[name] = next(tensor for source, tensor in held if source == wanted)
        return Parts(columns[0], columns[1], tuple(columns[2:]))


def _distinct(sources: Iterable[Source]) -> list[Source]:
    found: list[Source] = []
    for source in sources:
        if source not in found:
            found.append(source)
    return found


def _read(reads: Evaluator, source: Source, out: OutTensor) -> Tensor:
    """The value in float32, computed in float64 some rows at a time."""
    import torch

    from surgeon.ops.rowwise import chunk_rows

    if not out.shape:
        return _narrow(reads.value(source, out.shape, out.name))
    cache: dict[str, Any] = {}
    step = chunk_rows(out.shape)
    found: Tensor | None = None
    for start in range(0, out.shape[0], step):
        rows = (start, min(start + step, out.shape[0]))
        values = _narrow(reads.value(source, out.shape, out.name, rows, cache))
        found = torch.empty(out.shape, dtype=values.dtype) if found is None else found
        found[rows[0] : rows[1]] = values
    return torch.empty(out.shape) if found is None else found


def _narrow(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
