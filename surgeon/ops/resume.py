"""Going on with an output whose writing was interrupted: what was computed before is checked and not done again."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

from surgeon.checkpoint.commit import KEY, PROGRESS
from surgeon.checkpoint.tree_digest import LEAF, leaf_digest
from surgeon.checkpoint.writer import Writer
from surgeon.ops.done import Done


class Progressed:
    """The record of a folder that is being written: the digest of its plan, and a line for each part that is done."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / PROGRESS
        self._lock = threading.Lock()

    def add(self, done: Done) -> None:
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done.to_json()) + "\n")

    def read(self) -> list[Done]:
        """Of an earlier run; a last line that was cut off is left out."""
        found = []
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []:
            try:
                found.append(Done.from_json(json.loads(line)))
            except ValueError:
                break
        return found

    def clear(self) -> None:
        """Forget it all: the output is complete."""
        for name in (KEY, PROGRESS):
            (self._path.parent / name).unlink(missing_ok=True)


def still_there(before: list[Done], writer: Writer, sizes: Mapping[str, int]) -> list[Done]:
    """Those of `before` whose bytes are in the shards, as their digests tell."""
    found = []
    for part in before:
        if part.name not in sizes:
            continue
        spans = (
            (i * LEAF, min(LEAF, sizes[part.name] - i * LEAF))
            for i in range(part.first, part.first + len(part.leaves))
        )
        places = [(*writer.place(part.name, at), count) for at, count in spans]
        if all(leaf_digest(*place).hex() == leaf for place, leaf in zip(places, part.leaves, strict=True)):
            found.append(part)
    return found
