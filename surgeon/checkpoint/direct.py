"""Writing large pieces past the page cache: what is written once and synced gains nothing from being kept there."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from types import TracebackType

from surgeon.checkpoint.copy_file import ends_inside, extents, start_writeback, write_at
from surgeon.checkpoint.header import PAGE

_LEAST = 1 << 18  # bytes: less is not worth waiting for the disk
_NOT_HERE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)


class DirectFile:
    """An existing file, written from a buffer in which the bytes lie within a page as they do in the file.

    Whole pages go to the disk directly (O_DIRECT), which saves copying them once more; the bytes before and behind
    them go by way of the page cache, which two pieces may share. A file system without direct writing, such as tmpfs,
    gets all of it by way of the cache. The caller syncs the file in either case.
    """

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path, self._buffer = path, memoryview(buffer)
        self._handle = os.open(path, os.O_RDWR)
        self._start = 0
        self._direct: int | None = None
        try:
            self._direct = os.open(path, os.O_RDWR | getattr(os, "O_DIRECT", 0))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise

    @staticmethod
    def buffer(size: int) -> mmap.mmap:
        """Memory for pieces of up to `size` bytes wherever they lie within a page."""
        return mmap.mmap(-1, -(-size // PAGE) * PAGE + PAGE)

    def piece(self, position: int, nbytes: int) -> memoryview:
        """The part of the buffer from which bytes [position, position + nbytes) of the file will be written."""
        self._start = position - position % PAGE
        at = position % PAGE
        return self._buffer[at : at + nbytes]

    def write(self, position: int, nbytes: int) -> None:
        """These bytes of the file, out of what was put into the last `piece`."""
        data = self._buffer[position - self._start : position - self._start + nbytes]
        first = min(-position % PAGE, nbytes)
        last = max(first, nbytes - (position + nbytes) % PAGE)
        if last - first < _LEAST:
            first = last = nbytes
        self._through_cache(position, data[:first])
        self._past_cache(position + first, data[first:last])
        self._through_cache(position + last, data[last:])

    def copy(self, source: int, source_at: int, position: int, nbytes: int) -> None:
        """Bytes of an open file, by way of the buffer; the target reads as zero there, so holes stay holes."""
        for start, stop in extents(source, source_at, source_at + nbytes):
            at = start
            while at < stop:
                data = self.piece(position + at - source_at, min(stop - at, len(self._buffer) - PAGE))
                got = os.preadv(source, [data], at)
                if got == 0:
                    raise ends_inside(source)
                self.write(position + at - source_at, got)
                at += got

    def _past_cache(self, position: int, data: memoryview) -> None:
        while data.nbytes and self._direct is not None:
            try:
                done = os.pwrite(self._direct, data, position)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                os.close(self._direct)
                self._direct = None
                break
            if done % PAGE:  # a disk that fills up takes a part: the rest, or the error, comes by way of the cache
                data, position = data[done:], position + done
                break
            data, position = data[done:], position + done
        if data.nbytes:
            self._through_cache(position, data)
            start_writeback(self._handle, position, data.nbytes)

    def _through_cache(self, position: int, data: memoryview) -> None:
        write_at(self._handle, data, position)

    def close(self) -> None:
        for handle in (self._handle, self._direct):
            if handle is not None:
                os.close(handle)

    def __enter__(self) -> DirectFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
