"""Whether tokens in a file are still those that were written, found out where they are read.

Digests are of pieces of PIECE tokens. A piece is looked at when a window first reads from it, once by each process: so
the start of a run costs the same whatever the size of its corpora, and no token is trained on that was not looked at.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from surgeon.errors import SurgeonError

PIECE = 1 << 14  # tokens: 64 KiB of ids
_SHIFT = PIECE.bit_length() - 1
WIDTH = 16  # bytes of a digest
_MANY = 1 << 10  # pieces that a thread takes at a time


def piece_digests(ids: NDArray[np.int32], learn: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """uint8 [pieces, WIDTH]: the BLAKE3 digest of the ids of every piece and what is learned of them."""

    def some(first: int) -> bytes:
        return b"".join(_digest(ids, learn, number) for number in range(first, min(first + _MANY, count)))

    count = -(-len(ids) // PIECE)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # blake3 releases the interpreter lock
        return np.frombuffer(b"".join(pool.map(some, range(0, count, _MANY))), np.uint8).reshape(count, WIDTH)


class Pieces:
    """ids, learn: as in Tokens; wanted: their digests, as piece_digests gave them. where: what to name and to remove
    where they are others."""

    def __init__(
        self, ids: NDArray[np.int32], learn: NDArray[np.bool_], wanted: NDArray[np.uint8], where: str
    ) -> None:  # fmt: skip
        # plain views: a slice of a memmap costs more than a digest
        self._ids, self._learn, self._wanted = (a.view(np.ndarray) for a in (ids, learn, wanted))
        self._where = where
        self._sound = np.zeros(len(wanted), np.bool_)

    def check(self, index: NDArray[np.int64]) -> None:
        """Raise SurgeonError where one of these tokens is not what was written."""
        numbers = index >> _SHIFT
        if self._sound[numbers].all():
            return
        for number in np.unique(numbers).tolist():
            if not self._sound[number]:
                if _digest(self._ids, self._learn, number) != self._wanted[number].tobytes():
                    raise altered(self._where, f"from token {number * PIECE:,} on")
                self._sound[number] = True


def altered(where: str, what: str) -> SurgeonError:
    """What to raise of cached tokens that are not those that were written."""
    return SurgeonError(
        f"cached tokens are no longer what was written ({what})",
        where,
        "remove this folder, and run again (--resume, if there is a state): the tokens are made anew; a disk that "
        "alters files should be looked at",
    )


def _digest(ids: NDArray[np.int32], learn: NDArray[np.bool_], number: int) -> bytes:
    part = slice(number * PIECE, (number + 1) * PIECE)
    return blake3(ids[part].view(np.uint8).data).update(learn[part].view(np.uint8).data).digest(length=WIDTH)
