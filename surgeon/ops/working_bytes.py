"""Estimates of the memory that computing a tensor takes at its peak: float64 and temporaries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from surgeon.checkpoint.header import StoredTensor, num_bytes
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.tree_digest import LEAF
from surgeon.ops.plan import Apply, Copy, OutTensor, Rows, Source
from surgeon.ops.rowwise import at_rows, chunk_rows, rowwise, whole_copies
from surgeon.ops.sum_program import WeightedSum


def working_bytes(out: OutTensor, inputs: Mapping[str, Checkpoint], rows: int | None = None) -> int:
    """Of computing the tensor; rows: no more than so many rows at a time, where it is one whose rows can be."""
    if out.shape and rowwise(out.source):
        width = math.prod(out.shape[1:])
        count = min(out.shape[0], chunk_rows(out.shape), out.shape[0] if rows is None else rows)
        # values that are computed for all rows at once stay for the tensor's other rows, and are twice there at first
        whole = [piece_rows for _, piece_rows in _whole_pieces(out.source, [])]
        return 8 * width * (count * (2 + _num_leaves(out.source)) + sum(whole) + max(whole, default=0))
    own = math.prod(out.shape) * 8 * whole_copies(out.source)
    return own + sum(t.nbytes * 8 // num_bytes(t.dtype, ()) for t in _leaves(out.source, inputs))


def rows_bytes(out: OutTensor, inputs: Mapping[str, Checkpoint], rows: int) -> int:
    """Of computing so many rows of it, and putting what is stored of them together."""
    return working_bytes(out, inputs, rows) + 2 * rows * (out.nbytes // out.shape[0])


def needed_bytes(out: OutTensor, inputs: Mapping[str, Checkpoint], program: WeightedSum | None) -> tuple[int, int]:
    """(what is computed at one time, the buffers that a weighted sum keeps). program: of the tensor, if it is one;
    some of its rows may have to be computed, in pieces of the output as it is written."""
    if program is None:
        return working_bytes(out, inputs), 0
    from surgeon.ops.sum_task import writer_bytes

    longest = max((s.stop - s.start for s in program.segments if not s.plain), default=0)
    piece = LEAF // max(1, out.nbytes // out.shape[0]) + 2  # rows that lie in one, also in part
    return rows_bytes(out, inputs, min(longest, piece)) if longest else 0, writer_bytes(program)


def _whole_pieces(source: Source, found: list[tuple[Source, int]]) -> list[tuple[Source, int]]:
    """Pieces whose rows are computed all at once, with how many these are, each once."""
    match source:
        case Rows(pieces):
            for piece in pieces:
                if not isinstance(piece.source, Apply) or at_rows(piece.source):
                    _whole_pieces(piece.source, found)
                elif all(other != piece.source for other, _ in found):
                    found.append((piece.source, piece.count))
        case Apply(_, inputs):
            for inner in inputs:
                _whole_pieces(inner, found)
    return found


def _leaves(source: Source, inputs: Mapping[str, Checkpoint]) -> Iterator[StoredTensor]:
    match source:
        case Copy(model, tensor):
            yield inputs[model].tensor(tensor)
        case Rows(pieces):
            for piece in pieces:
                yield from _leaves(piece.source, inputs)
        case Apply(_, sources):
            for inner in sources:
                yield from _leaves(inner, inputs)


def _num_leaves(source: Source) -> int:
    match source:
        case Rows(pieces):
            return max(_num_leaves(p.source) for p in pieces)
        case Apply(_, sources):
            return 1 + sum(_num_leaves(s) for s in sources)
    return 1
