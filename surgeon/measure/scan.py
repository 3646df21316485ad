"""What looks wrong in one stored tensor: NaN, infinity, zeros, repeated rows. Read in pieces, bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.header import FLOATS, StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_BYTES = 1 << 26
SHOWN = 8


def scan(
    stored: StoredTensor,
    *,
    vocabulary: bool = False,
    rows_in_use: Container[int] | None = None,
    zero_expected: bool = False,
) -> list[dict[str, Any]]:
    """Findings {"kind", "tensor", "count", "rows", "places", "text"}: kind nan, inf, zero_tensor, zero_rows,
    duplicate_rows. rows, places (indices, [[row, column], ...]): the first SHOWN of them, in order; where a finding is
    of elements it has places, and where it is of rows it has rows.

    vocabulary: look at single rows (zero, repeated), of `rows_in_use` alone where they are known: others are padding.
    zero_expected: a tensor of zeros is as it should be. Types other than F64, F32, F16 and BF16 are not looked into.
    """
    if stored.dtype not in FLOATS or stored.nbytes == 0:
        return []
    nan, inf = _Elements(), _Elements()
    any_non_zero = False
    zero_rows: list[int] = []
    seen: dict[bytes, int] = {}
    duplicates: list[int] = []
    for start, piece in _pieces(stored):
        finite = piece.isfinite()
        if not bool(finite.all()):
            nan.add(piece.isnan(), start)
            inf.add(piece.isinf(), start)
        non_zero = piece != 0
        any_non_zero = any_non_zero or bool(non_zero.any())
        if vocabulary:
            zeros = (~non_zero.any(dim=1)).tolist()
            padding = [rows_in_use is not None and start + i not in rows_in_use for i in range(len(piece))]
            zero_rows += [start + i for i, zero in enumerate(zeros) if zero and not padding[i]]
            duplicates += _repeated(piece, start, [z or p for z, p in zip(zeros, padding, strict=True)], seen)
    scalar = not stored.shape
    found = [
        _finding("nan", stored.name, nan.count, "element is|elements are", "not a number", places=nan.places(scalar)),
        _finding("inf", stored.name, inf.count, "element is|elements are", "infinite", places=inf.places(scalar)),
    ]
    if not any_non_zero:
        found.append(_finding("zero_tensor", stored.name, 0 if zero_expected else 1, "tensor is|", "all zero"))
    else:
        found.append(_finding("zero_rows", stored.name, len(zero_rows), "row is|rows are", "all zero", rows=zero_rows))
        found.append(
            _finding(
                "duplicate_rows", stored.name, len(duplicates), "row repeats|rows repeat", "an earlier row",
                rows=duplicates,
            )
        )  # fmt: skip
    return [finding for finding in found if finding["count"]]


@dataclass
class _Elements:
    """How many elements of a tensor are wrong, and the indices of the first SHOWN of them."""

    count: int = 0
    first: list[list[int]] = field(default_factory=list)

    def add(self, wrong: Tensor, start: int) -> None:
        """wrong: bool, of the piece that begins at row `start`."""
        self.count += int(wrong.sum())
        room = SHOWN - len(self.first)
        if room > 0:
            self.first += [[start + row, *rest] for row, *rest in wrong.nonzero()[:room].tolist()]

    def places(self, scalar: bool) -> list[list[int]]:
        return [[] for _ in self.first] if scalar else self.first


def _finding(
    kind: str, tensor: str, count: int, words: str, rest: str, *, rows: Sequence[int] = (),
    places: Sequence[Sequence[int]] = (),
) -> dict[str, Any]:  # fmt: skip
    """words: of one, and of many."""
    one, _, many = words.partition("|")
    shown = [*map(str, rows[:SHOWN]), *(str(place) for place in places if place)]
    more = ", ..." if count > len(shown) else ""
    where = f": {', '.join(shown)}{more}" if shown else ""
    return {
        "kind": kind, "tensor": tensor, "count": count, "rows": list(rows[:SHOWN]), "places": list(places),
        "text": f"{count:,} {one if count == 1 else many} {rest}{where}",
    }  # fmt: skip


def _pieces(stored: StoredTensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows) in pieces of about CHUNK_BYTES; a scalar is one piece."""
    from surgeon.checkpoint.reader import read

    if not stored.shape:
        yield 0, read(stored).reshape(1)
        return
    step = max(1, CHUNK_BYTES // max(1, stored.nbytes // stored.shape[0]))
    for start in range(0, stored.shape[0], step):
        yield start, read(stored, (start, min(start + step, stored.shape[0])))


def _repeated(rows: Tensor, start: int, left_out: list[bool], seen: dict[bytes, int]) -> list[int]:
    """Row numbers whose bytes were seen before; `seen` is extended in place."""
    import torch

    raw = rows.contiguous().view(torch.uint8).numpy()
    repeated = []
    for i, out in enumerate(left_out):
        if out:
            continue
        digest = hashlib.blake2b(raw[i], digest_size=16).digest()
        if digest in seen:
            repeated.append(start + i)
        seen.setdefault(digest, start + i)
    return repeated
