"""Bytes from file to file without passing through this process, where the system can do that."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from surgeon.checkpoint.header import PAGE
from surgeon.errors import SurgeonError

_CHUNK = 1 << 24
_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_CLONE_RANGE = 0x4020940D  # FICLONERANGE


def copy_range(source: int, target: int, source_at: int, target_at: int, count: int) -> None:
    """`count` bytes between open files; the target is new there and reads as zero, so holes stay holes.

    Where the file system can share data between files (XFS, Btrfs), the kernel shares whole pages: where both places
    lie alike within a page, the bytes up to the first page go by themselves.
    """
    shift = target_at - source_at
    for start, stop in extents(source, source_at, source_at + count):
        first = min(start + (-start % PAGE), stop) if shift % PAGE == 0 else start
        _copy(source, target, start, start + shift, first - start)
        _copy(source, target, first, first + shift, stop - first)


def shares_data(source: int, target: int, source_at: int, target_at: int, count: int) -> bool:
    """Whether the file system lets two files have the same data (XFS, Btrfs), and these places lie so that it can.
    It is tried with the first whole page, which belongs there."""
    first = -source_at % PAGE
    if (target_at - source_at) % PAGE or count < first + PAGE:
        return False
    try:
        fcntl.ioctl(target, _CLONE_RANGE, struct.pack("=qQQQ", source, source_at + first, PAGE, target_at + first))
    except OSError:
        return False
    return True


def write_at(handle: int, data: memoryview, position: int) -> None:
    data = data.cast("B")
    while data.nbytes:
        done = os.pwrite(handle, data[: 1 << 30], position)
        data, position = data[done:], position + done


def link_file(source: Path, target: Path) -> None:
    """A second name of a file. Raises SurgeonError where the file system cannot give one."""
    try:
        os.link(source.resolve(), target)  # resolved: shards of the hub's cache are symbolic links
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        raise SurgeonError(
            f"the shard cannot be linked ({os.strerror(error.errno)})",
            f"{source} and {target.parent}",
            "leave out --link, or choose an output on the file system of the input",
        ) from error


def start_writeback(handle: int, position: int, nbytes: int) -> None:
    """Ask the kernel to begin writing to the disk: a hint, fsync is what is relied upon."""
    with contextlib.suppress(AttributeError):
        _libc().sync_file_range(handle, ctypes.c_int64(position), ctypes.c_int64(nbytes), ctypes.c_uint(_WRITE))


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)


def extents(source: int, position: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of [position, end) of a file that hold data; a file that ends before is refused."""
    if os.fstat(source).st_size < end:
        raise ends_inside(source)
    while position < end:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole up to the end of the file
                yield position, end  # a file system that does not know of holes
            return
        if start >= end:
            return
        stop = min(os.lseek(source, start, os.SEEK_HOLE), end)
        yield start, stop
        position = stop


def _copy(source: int, target: int, source_at: int, target_at: int, count: int) -> None:
    in_kernel = hasattr(os, "copy_file_range")
    while count:
        if in_kernel:
            try:
                done = os.copy_file_range(source, target, min(count, 1 << 30), source_at, target_at)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                in_kernel = False  # the same bytes by way of user space
                continue
        else:
            chunk = os.pread(source, min(count, _CHUNK), source_at)
            write_at(target, memoryview(chunk), target_at)
            done = len(chunk)
        if done == 0:
            raise ends_inside(source)
        source_at, target_at, count = source_at + done, target_at + done, count - done


def ends_inside(source: int) -> SurgeonError:
    """The refusal of a file that is shorter than its header said."""
    return SurgeonError("a shard ends inside a tensor", f"descriptor {source}", "it changed while it was read")
