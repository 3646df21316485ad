"""What looks wrong in one stored tensor: NaN, infinity, zeros, repeated rows. Read in pieces, bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.header import FLOATS, StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_BYTES = 1 << 26
SHOWN = 8


def scan(
    stored: StoredTensor, *, vocabulary: bool = False, rows_in_use: int | None = None, zero_expected: bool = False
) -> list[dict[str, Any]]:
    """Findings {"kind", "tensor", "count", "rows", "text"}: kind nan, inf, zero_tensor, zero_rows, duplicate_rows.

    vocabulary: look at single rows (zero, repeated), up to `rows_in_use`: rows behind it are padding. zero_expected:
    a tensor of zeros is as it should be. Types other than F64, F32, F16 and BF16 are not looked into.
    """
    if stored.dtype not in FLOATS or stored.nbytes == 0:
        return []
    nan = inf = 0
    any_non_zero = False
    zero_rows: list[int] = []
    seen: dict[bytes, int] = {}
    duplicates: list[int] = []
    for start, piece in _pieces(stored):
        finite = piece.isfinite()
        if not bool(finite.all()):
            nan += int(piece.isnan().sum())
            inf += int(piece.isinf().sum())
        non_zero = piece != 0
        any_non_zero = any_non_zero or bool(non_zero.any())
        if vocabulary:
            in_use = len(piece) if rows_in_use is None else max(0, min(len(piece), rows_in_use - start))
            zeros = (~non_zero[:in_use].any(dim=1)).tolist()
            zero_rows += [start + i for i, zero in enumerate(zeros) if zero]
            duplicates += _repeated(piece[:in_use], start, zeros, seen)
    found: list[tuple[str, int, list[int], str]] = [
        ("nan", nan, [], "elements are not a number"),
        ("inf", inf, [], "elements are infinite"),
    ]
    if not any_non_zero:
        found.append(("zero_tensor", 0 if zero_expected else 1, [], "tensor is all zero"))
    else:
        found.append(("zero_rows", len(zero_rows), zero_rows, "rows are all zero"))
        found.append(("duplicate_rows", len(duplicates), duplicates, "rows repeat an earlier row"))
    return [
        {"kind": kind, "tensor": stored.name, "count": count, "rows": rows[:SHOWN], "text": f"{count:,} {text}"}
        for kind, count, rows, text in found
        if count
    ]


def _pieces(stored: StoredTensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows) in pieces of about CHUNK_BYTES; a scalar is one piece."""
    from surgeon.checkpoint.reader import read

    if not stored.shape:
        yield 0, read(stored).reshape(1)
        return
    step = max(1, CHUNK_BYTES // max(1, stored.nbytes // stored.shape[0]))
    for start in range(0, stored.shape[0], step):
        yield start, read(stored, (start, min(start + step, stored.shape[0])))


def _repeated(rows: Tensor, start: int, zeros: list[bool], seen: dict[bytes, int]) -> list[int]:
    """Row numbers whose bytes were seen before (zero rows excepted); `seen` is extended in place."""
    import torch

    raw = rows.contiguous().view(torch.uint8).numpy()
    repeated = []
    for i, zero in enumerate(zeros):
        if zero:
            continue
        digest = hashlib.blake2b(raw[i], digest_size=16).digest()
        if digest in seen:
            repeated.append(start + i)
        seen.setdefault(digest, start + i)
    return repeated
