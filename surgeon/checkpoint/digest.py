"""Digests: of files, and of a checkpoint as the digests of its parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """`sha256:` and the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(paths: Iterable[Path], threads: int = 4) -> list[str]:
    """The digests of several files, in the order given (hashlib releases the interpreter lock)."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(file_digest, paths))


def json_digest(value: Any) -> str:
    """The digest of plain data: canonical JSON (sorted keys, no spaces)."""
    raw = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    return "sha256:" + hashlib.sha256(raw).hexdigest()
