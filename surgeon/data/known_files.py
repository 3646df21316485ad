"""Digests of the files of corpora that were read before, while none of them has changed since.

A set of files counts as unchanged while every one has the same device, inode, size and times (see
surgeon.checkpoint.known_digests), so a corpus that is known costs a stat for each of its files, whatever its size.
Sets of MIN_BYTES or more are remembered in `$XDG_CACHE_HOME/surgeon/corpora`, a small file each, and small ones in
this process only. Without a place to write to nothing is remembered there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from surgeon.checkpoint.digest import file_digests, json_digest
from surgeon.checkpoint.known_digests import TICK_NS, Stamp, cache_home, stamp

MIN_BYTES = 1 << 20  # less is read again in a few milliseconds
_KEPT = 512  # sets; the oldest go first
_FORMAT = 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_held: dict[str, list[str]] = {}


def settled(paths: Sequence[Path]) -> list[Stamp]:
    """The stamps of files, once the last change is so long ago that another one will show in them."""
    newest = max((stamp(path)[4] for path in paths), default=0)
    # a time in the future (a clock that was set back) is not waited for longer than a tick
    time.sleep(min(max(newest + TICK_NS - time.time_ns(), 0), TICK_NS) / 1e9)
    return [stamp(path) for path in paths]


def known_file_digests(paths: Sequence[Path]) -> list[str]:
    """The sha256 of files, in the order given; read only where they are not known."""
    marks = settled(paths)
    key = json_digest([_FORMAT, marks]).removeprefix("sha256:")
    found = _held.get(key) or _recall(key, len(paths))
    if found is None:
        began = time.time_ns()
        found = file_digests(paths)
        if [stamp(path) for path in paths] != marks or any(mark[4] > began - TICK_NS for mark in marks):
            return found
        if sum(mark[2] for mark in marks) >= MIN_BYTES:
            _remember(key, found)
    _held[key] = found
    return list(found)


def _recall(key: str, count: int) -> list[str] | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(_path(key).read_text(encoding="utf-8"))["digests"]
        if len(found) == count and all(map(_DIGEST.fullmatch, found)):
            return list(found)
    return None


def _remember(key: str, digests: list[str]) -> None:
    path = _path(key)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"digests": digests}), encoding="utf-8")
        temporary.replace(path)
        for old in sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime_ns)[:-_KEPT]:
            old.unlink()


def _path(key: str) -> Path:
    return cache_home() / "corpora" / f"{key}.json"
