"""Merges that are weighted sums of stored tensors, taken apart: they need neither torch nor whole tensors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from surgeon import registry
from surgeon.checkpoint.header import FLOATS
from surgeon.checkpoint.index import Checkpoint
from surgeon.ops.plan import Apply, Copy, OutTensor, Rows, Source, Zeros
from surgeon.ops.sum_program import Leaf, Segment, Term, WeightedSum

SUBTRACT = "kernel:subtract"


def weighted_sum(out: OutTensor, inputs: Mapping[str, Checkpoint]) -> WeightedSum | None:
    """The tensor as weighted sums of stored tensors; None where its method does not say that it is one (by a function
    `weighted_sum` in its module), or where nothing in it is plain."""
    source = out.source
    if not isinstance(source, Apply) or source.method != "kernel:merge" or not out.shape or out.dtype not in FLOATS:
        return None
    options: Mapping[str, Any] = source.options
    method = registry.get("merge", options["method"])
    coefficients = method.trait("weighted_sum")
    if coefficients is None:
        return None
    weights = coefficients(options["weights"], **method.bind(options.get("options") or {}))
    has_base = "base" in method.supplied
    base, parts = (source.inputs[0], source.inputs[1:]) if has_base else (Zeros(), source.inputs)
    cuts = sorted({0, out.shape[0], *(cut for entry in source.inputs for cut in _cuts(entry))})
    leaves = _Leaves(inputs)
    segments = []
    for start, stop in pairwise(cuts):
        try:
            terms = tuple(leaves.term(w, part, start) for w, part in zip(weights, parts, strict=True))
            segments.append(Segment(start, stop, leaves.number(base, start), terms))
        except _NotPlainError:
            segments.append(Segment(start, stop, None, (), plain=False))
    if not any(segment.plain for segment in segments):
        return None
    models = tuple(options.get("models") or ())
    return WeightedSum(out.name, out.dtype, tuple(out.shape), leaves.found(), tuple(segments), has_base, models)


class _NotPlainError(Exception):
    pass


class _Leaves:
    """Numbers what stands at some row of a source."""

    def __init__(self, inputs: Mapping[str, Checkpoint]) -> None:
        self._inputs = inputs
        self._numbers: dict[Copy, int] = {}

    def found(self) -> tuple[Leaf, ...]:
        return tuple(
            Leaf(self._inputs[c.model].tensor(c.tensor), c.shift, str(self._inputs[c.model].path))
            for c in self._numbers
        )

    def term(self, weight: float, source: Source, row: int) -> Term:
        if isinstance(source, Apply) and source.method == SUBTRACT:
            values, first = (self.number(i, row) for i in source.inputs)
            if values is None and first is not None:
                raise _NotPlainError
            return Term(weight, values, first)
        return Term(weight, self.number(source, row), None)

    def number(self, source: Source, row: int) -> int | None:
        """Of the stored tensor that stands there, or None for zeros."""
        match source:
            case Zeros():
                return None
            case Copy(model, tensor) if self._inputs[model].tensor(tensor).dtype in FLOATS:
                return self._numbers.setdefault(source, len(self._numbers))
            case Rows(pieces):
                piece = next(p for p in pieces if any(start <= row < stop for start, stop in p.ids))
                return self.number(piece.source, row)
        raise _NotPlainError


def _cuts(source: Source) -> list[int]:
    """The rows at which what stands in a source changes."""
    match source:
        case Rows(pieces):
            return [edge for p in pieces for run in p.ids for edge in run] + [
                c for p in pieces for c in _cuts(p.source)
            ]
        case Apply(method, inner) if method == SUBTRACT:
            return [cut for entry in inner for cut in _cuts(entry)]
    return []
