"""Whether a state's files are as they were written: torch and safetensors read a flipped bit without a word."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_CHUNK = 1 << 24


def crc32(path: Path) -> int:
    """The CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def crc32s(paths: Iterable[Path]) -> dict[str, int]:
    """The CRC-32 of files by name."""
    listed = list(paths)
    with ThreadPoolExecutor(min(len(listed), os.cpu_count() or 1) or 1) as pool:
        return {path.name: value for path, value in zip(listed, pool.map(crc32, listed), strict=True)}


def check_archive(path: Path) -> None:
    """Compare every record of what torch.save wrote with the CRC-32 beside it, which torch.load does not look at.

    Raises zipfile.BadZipFile.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} is not what was written")


def way_out(state: Path) -> str:
    """What a person can do whose state (its file, or the folder of its shards) is damaged."""
    older = [p.name for p in sorted(state.parent.glob("step-*.pt")) if p.stem < state.stem]
    if not older:
        return "start anew with --force"
    return f"remove {state.with_suffix('.pt').name}, and --resume goes on from {older[-1]}"
