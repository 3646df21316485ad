"""metrics.jsonl: one object a step, handed to the system as soon as the step is done."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from surgeon.checkpoint.commit import write_atomically
from surgeon.errors import SurgeonError


class MetricsLog:
    """Appends objects, each on a line. Opening it for a run that goes on drops the lines after `step` (-1: all)."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in self.read(path) if line["step"] <= step] if step >= 0 and path.is_file() else []
        self._path = path
        try:
            write_atomically(path, "".join(_line(value) for value in kept))
            self._file = path.open("ab", buffering=0)  # nothing is left for `close` to write
        except OSError as error:
            raise self._failed(error) from error

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All whole lines; a kill or a full disk can leave the last one cut, in the midst of a character too."""
        lines = path.read_bytes().split(b"\n")[:-1]  # names may hold other ends of lines
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:  # also Unicode's
            raise SurgeonError(
                "a line of the metrics is not a step", str(path), "remove the file, and --resume goes on without it"
            ) from error

    def write(self, value: dict[str, Any]) -> None:
        left = _line(value).encode()
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        """To the disk: before a state, which is not to know of steps that are not in here."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _failed(self, error: OSError) -> SurgeonError:
        return SurgeonError(
            f"the metrics cannot be written: {error.strerror or error}",
            str(self._path),
            "free some space, and --resume goes on from the last state, if there is one",
        )


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
