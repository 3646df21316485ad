"""How many windows each corpus has given by certain turns, kept in the cache: what a run that goes on begins with."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from surgeon.checkpoint.digest import file_digests, json_digest
from surgeon.data.store import place_of, stored
from surgeon.errors import SurgeonError

_KIND, _FILE = "turns", "counts.i64"


class TurnTable:
    """Counts by the number of the piece, of `size` turns each, that begins with them; of the turns that `digest`
    decides, for `num_corpora`.

    A count is written when a piece has been gone through and never changes; short runs write none.
    """

    def __init__(self, digest: str, num_corpora: int, size: int) -> None:
        self._digest, self._num_corpora, self._size = digest, num_corpora, size

    def nearest(self, piece: int) -> tuple[int, list[int]]:
        """(the last piece up to this one whose beginning is known, its counts); piece 0 always is."""
        for number in range(piece, 0, -1):
            path = self.path(number)
            if path.is_dir():
                return number, self._read(path)
        return 0, [0] * self._num_corpora

    def keep(self, piece: int, counts: list[int]) -> None:
        """Write down the counts at the beginning of a piece. Raises SurgeonError where the cache cannot be written."""
        stored(_KIND, self._key(piece), lambda folder: np.asarray(counts, np.int64).tofile(folder / _FILE))

    def path(self, piece: int) -> Path:
        """Where the counts at the beginning of a piece lie, if they were written."""
        return place_of(_KIND, self._key(piece))

    def _key(self, piece: int) -> str:
        return json_digest([_code(), self._digest, piece * self._size])

    def _read(self, path: Path) -> list[int]:
        try:
            counts: list[int] = np.fromfile(path / _FILE, np.int64).tolist()
        except OSError as error:
            raise SurgeonError(
                f"kept counts cannot be read: {error}", str(path), "remove this folder and run again"
            ) from error
        if len(counts) != self._num_corpora:
            raise SurgeonError(
                f"kept counts are of {len(counts)} corpora, not of {self._num_corpora}", str(path),
                "remove this folder and run again",
            )  # fmt: skip
        return counts


@cache
def _code() -> list[str]:
    """Of the code that deals the turns."""
    return list(file_digests([Path(__file__).with_name("turns.py")]))
