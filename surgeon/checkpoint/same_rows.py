"""Whether two stored matrices hold the same bytes, read side by side and no further than to the first difference."""

from __future__ import annotations

from surgeon.checkpoint.header import StoredTensor

_CHUNK = 1 << 22


def same_rows(a: StoredTensor, b: StoredTensor, rows: int | None = None) -> bool:
    """Of the first `rows` rows of two tensors (None: of all, as many in both)."""
    if a.dtype != b.dtype or a.shape[1:] != b.shape[1:]:
        return False
    if rows is None:
        if a.shape != b.shape:
            return False
        nbytes = a.nbytes
    elif min(a.shape[0], b.shape[0]) < rows:
        return False
    else:
        nbytes = a.nbytes // a.shape[0] * rows
    with a.path.open("rb") as left, b.path.open("rb") as right:
        left.seek(a.start)
        right.seek(b.start)
        chunks = (min(_CHUNK, nbytes - at) for at in range(0, nbytes, _CHUNK))
        return all(left.read(count) == right.read(count) for count in chunks)
