"""Folders of the cache, named by what they are made from: written beside, renamed once, never half there."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surgeon.checkpoint.commit import sync, sync_tree
from surgeon.checkpoint.file_lock import hold
from surgeon.checkpoint.known_digests import cache_home
from surgeon.errors import SurgeonError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HINT = "set XDG_CACHE_HOME to a folder with room"


def place_of(kind: str, digest: str) -> Path:
    """Where such a folder lies, if it was made."""
    return cache_home() / kind / digest.removeprefix("sha256:")


def stored(kind: str, digest: str, make: Callable[[Path], None]) -> Path:
    """The folder `kind`/digest of the cache; `make` fills a new one if it is not there.

    Of several processes one makes it and the others wait for it. What a killed one left is removed by the next.
    Raises SurgeonError where the cache cannot be written, or what `make` raises; then nothing is left.
    """
    path = place_of(kind, digest)
    if path.is_dir():
        with suppress(OSError):  # of somebody else, or read-only
            os.utime(path)  # when it was last used: the oldest are pruned first
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".{path.name}.lock").touch()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise SurgeonError(f"the cache cannot be written ({why})", str(path.parent), _HINT) from error
    try:
        with _held(path.with_name(f".{path.name}.lock")):
            if not path.is_dir():  # another process may have made it meanwhile
                _make(path, make)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise SurgeonError("the cache's disk is full", str(path.parent), f"free some space, or {_HINT}") from error
    return path


def removed(path: Path) -> bool:
    """Remove a folder of the cache, or what a killed process left of one; False while a process makes it. A run that
    has mapped its files keeps them."""
    lock = path.with_name(f".{path.name.removeprefix('.').removesuffix('.partial')}.lock")
    handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(handle).st_nlink:
            return False  # whoever held it has just removed it
        gone = lock.with_suffix(".partial")
        if path != gone:
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)  # nobody finds half of it
        shutil.rmtree(gone)
        lock.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _make(path: Path, make: Callable[[Path], None]) -> None:
    folder = path.with_name(f".{path.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        make(folder)
        sync_tree(folder)
        folder.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Wait for a lock and hold it; it ends with the process, however it ends."""
    handle = hold(lock, wait=True)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)
