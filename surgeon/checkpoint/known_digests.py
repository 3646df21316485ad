"""Digests of files of weights that were read before, while the file has not changed since.

A file counts as unchanged while device, inode, size, time of the last write and time of the last change of the inode
are the same. The last one is set by the system on every write and cannot be set by a program, so a write that hides
behind an old modification time is seen. A file that changed less than 25 ms before it was read is not remembered: a
second write could fall into the same tick of the system's clock. Nothing here is used to verify an output.

Small files are remembered in this process only; large ones in `$XDG_CACHE_HOME/surgeon/digests` (by default under
~/.cache), one small file each. Without a place to write to nothing is remembered there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from surgeon.checkpoint.tree_digest import TREE, WeightDigest, weight_digests

LARGE = 64 << 20
_KEPT, _SLACK = 512, 64  # files; the oldest go first, when there are so many more: asking each for its age takes time
TICK_NS = 25_000_000  # more than two ticks of the slowest clock (100 Hz)
_FORMAT = 2
_HEX = re.compile(r"[0-9a-f]{64}")
Stamp = tuple[int, int, int, int, int]
_held: dict[Stamp, WeightDigest] = {}


def stamp(path: Path) -> Stamp:
    """Device, inode, size, and the two times (nanoseconds) that any change of the file moves."""
    s = path.stat()
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def known_weight_digests(paths: Sequence[Path], threads: int | None = None) -> list[WeightDigest]:
    """The digests of files of weights; those that are not known are read, and remembered."""
    found = [recall(stamp(path)) for path in paths]
    absent = [path for path, digest in zip(paths, found, strict=True) if digest is None]
    if absent:
        let_tick_pass(absent)
        before, stamps = time.time_ns(), [stamp(path) for path in absent]
        read = dict(zip(absent, weight_digests(absent, threads=threads), strict=True))
        for path, mark in zip(absent, stamps, strict=True):
            if stamp(path) == mark:
                remember(mark, read[path], before)
        found = [read.get(path, digest) for path, digest in zip(paths, found, strict=True)]
    return [digest for digest in found if digest is not None]


def let_tick_pass(paths: Sequence[Path]) -> None:
    """Wait until large files have been what they are for long enough to be remembered: shorter than reading twice."""
    newest = max((stamp(path)[4] for path in paths if path.stat().st_size >= LARGE), default=0)
    time.sleep(min(max(newest + TICK_NS - time.time_ns(), 0), TICK_NS) / 1e9)


def recall(mark: Stamp) -> WeightDigest | None:
    """What is remembered of the file with this stamp."""
    if mark not in _held and mark[2] >= LARGE:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            value = json.loads(_path(mark).read_text(encoding="utf-8"))
            own = dict(value["tensors"])
            whole = value["digest"].removeprefix(TREE)
            if (value["format"], *value["stamp"]) == (_FORMAT, *mark) and all(
                map(_HEX.fullmatch, [whole, *own.values()])
            ):
                _held[mark] = WeightDigest(TREE + whole, own)
    return _held.get(mark)


def remember(mark: Stamp, digest: WeightDigest, before_ns: int, linked: bool = False) -> None:
    """Keep a digest. before_ns: a time at which the file already had this stamp, and after which it was read.
    linked: the file has just been given a second name, which changes the inode but not what was last written."""
    if mark[3 if linked else 4] > before_ns - TICK_NS:
        return
    _held[mark] = digest
    if mark[2] < LARGE:
        return
    value = {"format": _FORMAT, "stamp": mark, "digest": digest.digest, "tensors": dict(digest.tensors)}
    path = _path(mark)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(path)
        kept = list(path.parent.glob("*.json"))
        if len(kept) > _KEPT + _SLACK:
            for old in sorted(kept, key=lambda p: p.stat().st_mtime_ns)[:-_KEPT]:
                old.unlink()


def cache_home() -> Path:
    """Where surgeon keeps what it can make again. A user without a home, as in containers, has no place for it: there
    nothing is found and nothing can be written, unless XDG_CACHE_HOME names one."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(given) if given else Path.home() / ".cache") / "surgeon"
    except RuntimeError:
        return Path("/nonexistent/.cache/surgeon")


def _path(mark: Stamp) -> Path:
    return cache_home() / "digests" / f"{mark[0]:x}-{mark[1]:x}.json"
