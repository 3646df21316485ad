"""Files of a corpus that are compressed as a whole: .jsonl.gz, .txt.zst, and as they are: .jsonl.

What is cut off is an error, and files of several streams or frames one behind the other (pigz, bgzip, pzstd, cat) are
read to their end.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from surgeon.errors import SurgeonError

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_PADDING = b"\0"  # that .xz allows behind a stream
_CHUNK = 1 << 20


def kind_of(path: Path) -> str:
    """What says what a file holds, in lower case: .jsonl, or .jsonl.gz where it is compressed; empty without one."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return "".join(suffixes if suffixes[-1:] and suffixes[-1] in COMPRESSIONS else suffixes[-1:])


def plain_kind(path: Path) -> str:
    """The same of what comes out when it is unpacked: .jsonl of both."""
    kind = kind_of(path)
    return next((kind.removesuffix(packed) for packed in COMPRESSIONS if kind.endswith(packed)), kind)


def plain_name(path: Path) -> str:
    """The name without what `kind_of` says."""
    return path.name[: len(path.name) - len(kind_of(path))]


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file, unpacked, with their ends; each once the next one is there, or the end: half a line of a
    file that is cut off is none."""
    with unpacked(path) as file:
        before = None
        for line in file:
            if before is not None:
                yield before
            before = line
        if before is not None:
            yield before


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """The contents of a file, unpacked on the way. Raises SurgeonError where the file is damaged or cut off."""
    suffix = path.suffix.lower()
    if suffix not in COMPRESSIONS:
        with path.open("rb") as file:
            yield file
        return
    try:
        with path.open("rb") as raw:
            yield _opened(raw, suffix, path)
    except (EOFError, zlib.error, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        raise SurgeonError(
            f"the file cannot be unpacked: {str(error) or type(error).__name__}",
            str(path),
            "restore it from its source",
        ) from error


def _opened(raw: BinaryIO, suffix: str, path: Path) -> Any:
    if not os.fstat(raw.fileno()).st_size:
        raise EOFError("it is empty")
    if suffix == ".gz":
        return gzip.open(raw)
    if suffix == ".bz2":
        return io.BufferedReader(_Streams(raw, bz2.BZ2Decompressor, OSError), _CHUNK)
    if suffix == ".xz":
        return io.BufferedReader(_Streams(raw, lzma.LZMADecompressor, lzma.LZMAError, _PADDING), _CHUNK)
    try:
        from zstandard import ZstdDecompressor, ZstdError
    except ImportError as error:
        raise SurgeonError(
            "reading .zst needs zstandard, which is not installed", str(path), "pip install 'surgeon[zst]'"
        ) from error
    return io.BufferedReader(_Streams(raw, ZstdDecompressor().decompressobj, ZstdError), _CHUNK)


class _Streams(io.RawIOBase):
    """Streams (of zstd: frames) one behind the other, `padding` between them. The libraries' own readers take what is
    cut off (zstandard), or a stream that is damaged at its start or follows padding (bz2, lzma), for the end.
    damaged: what the library raises on a stream that is no such."""

    def __init__(
        self, raw: BinaryIO, new: Callable[[], Any], damaged: type[Exception], padding: bytes = b""
    ) -> None:  # fmt: skip
        self._raw, self._new, self._damaged, self._padding = raw, new, damaged, padding
        self._stream: Any = None
        self._packed, self._out = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._out:
            packed, self._packed = self._packed or self._raw.read(_CHUNK), b""
            if not packed:
                if self._stream is not None:
                    raise EOFError("the last stream is cut off")
                return 0
            if self._stream is None and self._padding:
                packed = packed.lstrip(self._padding)
                if not packed:
                    continue
            self._stream = self._stream or self._new()
            self._out = memoryview(self._unpack(packed))
            if self._stream.eof:
                self._packed, self._stream = self._stream.unused_data, None
        count = min(len(target), len(self._out))
        target[:count], self._out = self._out[:count], self._out[count:]
        return count

    def _unpack(self, packed: bytes) -> bytes:
        try:
            found: bytes = self._stream.decompress(packed)
        except self._damaged as error:
            raise ValueError(str(error)) from error
        return found
