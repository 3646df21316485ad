"""Algebra of sources by rows: a part of a source, and one source laid over another where it is zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from surgeon.errors import SurgeonError
from surgeon.ops.plan import Apply, Copy, Piece, Rows, Source, Zeros

if TYPE_CHECKING:
    from surgeon.merge.vocabulary import Met

Runs = tuple[tuple[int, int], ...]


def substitute(source: Source, change: Callable[[Copy], Source]) -> Source:
    """The source with every Copy replaced by change(copy), which may be any source of the copied tensor.

    A Copy in a piece is taken at the piece's row ids, so what replaces it there is restricted to them.
    """
    match source:
        case Copy():
            return change(source)
        case Rows(pieces):
            return joined([part for piece in pieces for part in _substituted(piece, change)])
        case Apply(_, inputs):
            return replace(source, inputs=tuple(substitute(i, change) for i in inputs))
    return source


def restrict(source: Source, ids: Runs) -> list[Piece]:
    """The rows `ids` of a source as pieces with the ids they have there."""
    if not isinstance(source, Rows):
        if isinstance(source, Apply) and not _at_rows(source):
            # its own number of rows is not known to the source
            raise SurgeonError(
                f"rows of a matrix computed as a whole ({source.method}) cannot be told apart",
                "surgeon.json: initial",
                "merge before this step, or give --onto a model that precedes it",
            )
        return [Piece(ids, source)]
    found = []
    for piece in source.pieces:
        common = intersection(piece.ids, ids)
        if common:
            found.append(_part(piece, common))
    return found


def met_rows(source: Source, met: Met) -> list[Piece]:
    """Pieces of the rows that have a partner in `source`, at the ids they have here."""
    found = []
    for ids, shift in met.shifts:
        found += [Piece(_moved(p.ids, -shift), shifted(p.source, shift)) for p in restrict(source, _moved(ids, shift))]
    return found


def overlay(top: Source, below: Source) -> Source:
    """`below` where `top` is zero by structure (Zeros, whole or as pieces), `top` elsewhere."""
    match top:
        case Zeros():
            return below
        case Rows(pieces):
            parts: list[Piece] = []
            for piece in pieces:
                parts += restrict(below, piece.ids) if isinstance(piece.source, Zeros) else [piece]
            return joined(parts)
    return top


def masked(source: Source, like: Source) -> Source:
    """`source` with zeros where `like` is zero by structure."""
    match like:
        case Zeros():
            return Zeros()
        case Rows(pieces):
            parts: list[Piece] = []
            for piece in pieces:
                parts += [piece] if isinstance(piece.source, Zeros) else restrict(source, piece.ids)
            return joined(parts)
    return source


def joined(pieces: list[Piece]) -> Source:
    """Pieces as one source; neighbours that copy from one tensor, or are zero, become one piece. In row order."""
    pieces = sorted(pieces, key=lambda p: p.ids[0])
    merged: list[Piece] = []
    for piece in pieces:
        if merged and isinstance(piece.source, Copy | Zeros) and merged[-1].source == piece.source:
            merged[-1] = Piece(_join(merged[-1].ids + piece.ids), piece.source)
        else:
            merged.append(piece)
    if len(merged) == 1 and isinstance(merged[0].source, Zeros):
        return Zeros()
    return Rows(tuple(merged))


def intersection(left: Runs, right: Runs) -> Runs:
    """The rows in both, as ascending runs."""
    common = [(max(a, c), min(b, d)) for a, b in left for c, d in right if max(a, c) < min(b, d)]
    return _join(tuple(common))


def _join(runs: Runs) -> Runs:
    found: list[tuple[int, int]] = []
    for start, stop in sorted(runs):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return tuple(found)


def _substituted(piece: Piece, change: Callable[[Copy], Source]) -> list[Piece]:
    if isinstance(piece.source, Copy):
        by = piece.source.shift
        found = restrict(change(replace(piece.source, shift=0)), _moved(piece.ids, by))
        return [Piece(_moved(part.ids, -by), shifted(part.source, by)) for part in found]
    return [replace(piece, source=substitute(piece.source, change))]


def shifted(source: Source, by: int) -> Source:
    """The source whose row r is the row r + by of the one given, where rows are called by their ids."""
    match source:
        case Copy() if by:
            return replace(source, shift=source.shift + by)
        case Rows(pieces) if by:
            return Rows(tuple(Piece(_moved(p.ids, -by), shifted(p.source, by)) for p in pieces))
        case Apply(_, inputs) if by and _at_rows(source):
            return replace(source, inputs=tuple(shifted(i, by) for i in inputs))
    return source


def _moved(ids: Runs, by: int) -> Runs:
    return tuple((start + by, stop + by) for start, stop in ids) if by else ids


def _part(piece: Piece, ids: Runs) -> Piece:
    """The rows `ids` (a subset) of a piece."""
    if ids == piece.ids or isinstance(piece.source, Copy | Zeros) or _at_rows(piece.source):
        return Piece(ids, piece.source)
    whole = Rows((Piece(((0, piece.count),), piece.source),))
    return Piece(ids, Apply("kernel:take", (whole,), {"runs": [list(run) for run in _within(piece.ids, ids)]}))


def _within(ids: Runs, wanted: Runs) -> list[tuple[int, int]]:
    """Where rows `wanted` stand when the rows `ids` are counted from 0."""
    found = []
    done = 0
    for start, stop in ids:
        for low, high in intersection(((start, stop),), wanted):
            found.append((done + low - start, done + high - start))
        done += stop - start
    return found


def _at_rows(source: Source) -> bool:
    """Whether an Apply inside a piece is taken at the piece's row ids, as a Copy is."""
    from surgeon.ops.rowwise import at_rows

    return isinstance(source, Apply) and at_rows(source)


def attachments(sources: Iterable[Source]) -> list[str]:
    """The tables that sources refer to, sorted."""
    found: dict[str, None] = {}

    def visit(source: Source) -> None:
        match source:
            case Rows(pieces):
                for piece in pieces:
                    visit(piece.source)
            case Apply(_, inputs, _, attachment):
                if attachment is not None:
                    found[attachment] = None
                for inner in inputs:
                    visit(inner)

    for source in sources:
        visit(source)
    return sorted(found)
