"""Which sources can be computed some rows at a time, and how many; known from the plan alone."""

from __future__ import annotations

import math

from surgeon import registry
from surgeon.ops.plan import Apply, Rows, Source

CHUNK_ELEMENTS = 1 << 20


def rowwise(source: Source) -> bool:
    """Whether rows of this source can be computed without its other rows."""
    match source:
        case Apply(method, inputs, options):
            found = registry.get(*kind_and_name(method))
            trait = found.trait("ROWWISE", bool(found.trait("AT_ROWS", ())))
            here = trait(options) if callable(trait) else bool(trait)
            return here and all(rowwise(i) for i, at in zip(inputs, takes_rows(found, len(inputs)), strict=True) if at)
    return True


def whole_copies(source: Source) -> int:
    """How many float64 copies of a tensor that is computed whole are held besides its inputs, at the peak: 3, or what
    the method declares as WHOLE_COPIES."""
    match source:
        case Apply(method, inputs, options):
            trait = registry.get(*kind_and_name(method)).trait("WHOLE_COPIES", 3)
            return max([trait(options) if callable(trait) else trait, *(whole_copies(i) for i in inputs)])
        case Rows(pieces):
            return max((whole_copies(piece.source) for piece in pieces), default=3)
    return 3


def takes_rows(method: registry.Method, count: int) -> tuple[bool, ...]:
    """Which inputs are given at the rows at hand: all, unless the kernel declares AT_ROWS for the first ones (the
    others it gets whole)."""
    declared = method.trait("AT_ROWS", None)
    if declared is None:
        return (True,) * count
    return tuple(declared[i] if i < len(declared) else False for i in range(count))


def chunk_rows(shape: tuple[int, ...]) -> int:
    """How many rows of an elementwise computation are done at a time: of the shape alone, so that no result depends on
    memory or threads. A vector is not divided: it is small, and what works by rows takes it for one row."""
    if len(shape) == 1:
        return max(1, shape[0])
    return max(1, CHUNK_ELEMENTS // max(math.prod(shape[1:]), 1))


def at_rows(source: Apply) -> bool:
    """Whether an Apply inside a piece is taken at the piece's row ids, as a Copy is."""
    return bool(source.inputs) and rowwise(source)


def kind_and_name(method: str) -> tuple[str, str]:
    """("kernel", "merge") from "kernel:merge"."""
    kind, _, name = method.partition(":")
    return kind, name
