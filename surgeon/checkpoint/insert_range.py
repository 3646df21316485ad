"""Room in front of a file's data without moving it: the file system's extents are shifted (ext4, XFS)."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from surgeon.checkpoint.header import PAGE

_INSERT_RANGE = 0x20  # FALLOC_FL_INSERT_RANGE of <linux/falloc.h>


def insert_front(handle: int, nbytes: int) -> None:
    """`nbytes` (a multiple of the page) of zeros before the first byte of an open file; what was there is moved back
    by that much. Raises OSError where the file system cannot do it."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.fallocate(handle, ctypes.c_int(_INSERT_RANGE), ctypes.c_int64(0), ctypes.c_int64(nbytes))
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def can_insert(folder: Path) -> bool:
    """Whether the file system of the folder can, by trying it on a file of its own."""
    path = folder / ".surgeon-insert-range"
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
    try:
        os.pwrite(handle, b"x" * 2 * PAGE, 0)
        insert_front(handle, PAGE)
        return os.pread(handle, 1, PAGE) == b"x" and os.fstat(handle).st_size == 3 * PAGE
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM):
            return False
        raise
    finally:
        os.close(handle)
        path.unlink()
