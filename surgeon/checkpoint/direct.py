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
        self._put(position, self._buffer[position - self._start : position - self._start + nbytes])

    def copy(self, source: int, source_at: int, position: int, nbytes: int) -> None:
        """Bytes of an open file; the target reads as zero there, so holes stay holes.

        Where the bytes lie within a page as they will in the target, the disk takes them out of the source's pages in
        the cache, which saves copying them there too; else, and where that is refused, by way of the buffer.
        """
        alike = (position - source_at) % PAGE == 0 and self._direct is not None
        size = len(self._buffer) - PAGE
        for start, stop in extents(source, source_at, source_at + nbytes):
            at = start
            if alike:  # what is not in the cache is asked for in time: single pages would be read as they are met
                os.posix_fadvise(source, start, stop - start, os.POSIX_FADV_WILLNEED)
            while at < stop:
                count = min(size - at % PAGE, stop - at)
                if alike and self._put_mapped(source, at, position + at - source_at, count):
                    at += count
                    continue
                data = self.piece(position + at - source_at, count)
                got = os.preadv(source, [data], at)
                if got == 0:
                    raise ends_inside(source)
                self.write(position + at - source_at, got)
                at += got

    def _put_mapped(self, source: int, at: int, position: int, nbytes: int) -> bool:
        """False where the system does not take them out of the source's pages; reading them says why. The pages are
        never touched here: a source that becomes shorter meanwhile is an error of the write, not a signal."""
        before = at % PAGE
        try:
            mapped = mmap.mmap(source, before + nbytes, access=mmap.ACCESS_READ, offset=at - before)
        except (OSError, ValueError):  # no mappings of it; ValueError: the file ends before
            return False
        try:
            self._put(position, memoryview(mapped)[before:])
        except OSError as error:  # not closed by hand: parts of it are in the traceback
            if error.errno != errno.EFAULT:
                raise
            return False
        return True

    def _put(self, position: int, data: memoryview) -> None:
        nbytes = data.nbytes
        first = min(-position % PAGE, nbytes)
        last = max(first, nbytes - (position + nbytes) % PAGE)
        if last - first < _LEAST:
            first = last = nbytes
        self._through_cache(position, data[:first])
        self._past_cache(position + first, data[first:last])
        self._through_cache(position + last, data[last:])

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
