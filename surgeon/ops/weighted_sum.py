"""Merges that are weighted sums of stored tensors, taken apart: they need neither torch nor whole tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from surgeon import registry
from surgeon.checkpoint.header import FLOATS
from surgeon.checkpoint.index import Checkpoint
from surgeon.ops.plan import Apply, Copy, OutTensor, Rows, Source, Zeros

SUBTRACT = "kernel:subtract"


@dataclass(frozen=True, slots=True)
class Term:
    """weight x (values - first); first None: nothing is subtracted. values None: the term is not there, and counts as
    no change."""

    weight: float
    values: Copy | None
    first: Copy | None


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows [start, stop) of the output: base + the terms, a product and then a sum each, in order, in float64; without
    a base the first term begins the sum. plain False: something in it is computed otherwise."""

    start: int
    stop: int
    base: Copy | None
    terms: tuple[Term, ...]
    plain: bool = True


@dataclass(frozen=True)
class WeightedSum:
    """The segments of a tensor, in order. has_base: whether terms are deltas of a base. models: roles of the terms."""

    segments: tuple[Segment, ...]
    has_base: bool
    models: tuple[str, ...]


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
    segments = []
    for start, stop in pairwise(cuts):
        try:
            terms = tuple(_term(w, part, start, inputs) for w, part in zip(weights, parts, strict=True))
            segments.append(Segment(start, stop, _leaf(base, start, inputs), terms))
        except _NotPlainError:
            segments.append(Segment(start, stop, None, (), plain=False))
    if not any(segment.plain for segment in segments):
        return None
    return WeightedSum(tuple(segments), has_base, tuple(options.get("models") or ()))


def is_weighted_sum(out: OutTensor, inputs: Mapping[str, Checkpoint]) -> bool:
    """Whether all of the tensor is one, so that computing it takes no more memory than some blocks."""
    found = weighted_sum(out, inputs)
    return found is not None and all(segment.plain for segment in found.segments)


class _NotPlainError(Exception):
    pass


def _term(weight: float, source: Source, row: int, inputs: Mapping[str, Checkpoint]) -> Term:
    if isinstance(source, Apply) and source.method == SUBTRACT:
        values, first = (_leaf(i, row, inputs) for i in source.inputs)
        if values is None and first is not None:
            raise _NotPlainError
        return Term(weight, values, first)
    return Term(weight, _leaf(source, row, inputs), None)


def _leaf(source: Source, row: int, inputs: Mapping[str, Checkpoint]) -> Copy | None:
    """What stands at this row: a stored tensor, or None for zeros."""
    match source:
        case Zeros():
            return None
        case Copy(model, tensor) if inputs[model].tensor(tensor).dtype in FLOATS:
            return source
        case Rows(pieces):
            piece = next(p for p in pieces if any(start <= row < stop for start, stop in p.ids))
            return _leaf(piece.source, row, inputs)
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
