"""What the cache holds, how large it is, and when it was last used; and the removal of what is not wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from surgeon.checkpoint.known_digests import cache_home
from surgeon.data.store import removed

KINDS = {
    "tokens": "tokens of corpora",
    "scores": "scores of documents",
    "turns": "counts of mixtures",
    "corpora": "digests of corpora",
    "digests": "digests of weights",
}


@dataclass(frozen=True)
class Entry:
    """A folder or a file of the cache. nbytes: of its files. used_ns: when it was last used (tokens, scores) or made.
    whole: False where a process makes it, or was killed while it did."""

    kind: str
    path: Path
    nbytes: int
    used_ns: int
    whole: bool


def entries() -> list[Entry]:
    """All there is in the cache of this release's kinds, the oldest first; nothing else below it is looked at."""
    found = []
    for kind in KINDS:
        for path in (cache_home() / kind).glob("*"):
            whole = not path.name.startswith(".")
            if whole or path.suffix == ".partial":
                with suppress(FileNotFoundError):  # removed or finished meanwhile
                    found.append(Entry(kind, path, _size(path), path.stat().st_mtime_ns, whole))
    return sorted(found, key=lambda entry: (entry.used_ns, entry.path))


def to_prune(held: Sequence[Entry], before_ns: float = -math.inf, most: float = math.inf) -> list[Entry]:
    """Of entries, the oldest first: what is not whole, those last used before a time, and as many more as leave at
    most `most` bytes."""
    chosen = [entry for entry in held if not entry.whole or entry.used_ns < before_ns]
    rest = [entry for entry in held if entry.whole and entry.used_ns >= before_ns]
    left = sum(entry.nbytes for entry in rest)
    for entry in rest:
        if left > most:
            chosen.append(entry)
            left -= entry.nbytes
    return chosen


def prune(chosen: Sequence[Entry]) -> list[Entry]:
    """Remove entries; gives those that were. What a process makes just now stays."""
    return [entry for entry in chosen if _prune(entry)]


def _prune(entry: Entry) -> bool:
    try:
        if entry.path.is_dir():
            return removed(entry.path)
        entry.path.unlink()
    except FileNotFoundError:
        return False
    return True


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
