"""A lock by a file, which ends with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def hold(path: Path, *, wait: bool = False) -> int:
    """A handle on the lock file at `path`, which is made if it is not there; who is done with it removes the file and
    closes the handle.

    Raises BlockingIOError where another process holds it, unless `wait`, and FileNotFoundError without the folder.
    """
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException:
            os.close(handle)
            raise
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)  # whoever held it has just removed it: a lock that nobody else would find
