"""A safetensors header, read and checked without touching the data behind it.

Format (safetensors README): 8 bytes little-endian N, N bytes of JSON, then the data; offsets relative to the data,
no holes, no overlaps, the last one ends at the end of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError

# safetensors dtype code -> bytes of one element (sub-byte types are refused: their rows are not addressable)
DTYPE_BYTES: dict[str, int] = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8,
    "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")
ALIGNMENT = 8
PAGE = 4096
_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_HEADER = 100_000_000  # the limit of the safetensors library


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor where it lies: `start` is the byte offset in the file `path`; C order, little endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    nbytes: int


def num_bytes(dtype: str, shape: Iterable[int]) -> int:
    return DTYPE_BYTES[dtype] * math.prod(shape)


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """(tensors by name in file order, `__metadata__`); refuses a truncated, holed or malformed file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little") if len(prefix) == 8 else -1
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            check_no_pointer(path)
            said = f"its header says {length} bytes and the file has {size}" if size >= 8 else "it has no header"
            raise _broken(path, said)
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _broken(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is not a JSON object")
    metadata = header.pop("__metadata__", {}) or {}
    data = 8 + length
    tensors = [_entry(path, name, entry, data) for name, entry in header.items()]
    position = data
    for tensor in sorted(tensors, key=lambda t: (t.start, t.nbytes)):
        if tensor.start != position:
            raise _broken(path, f"the data of {tensor.name!r} does not start where the one before ends")
        position += tensor.nbytes
    if position != size:
        what = "is truncated" if position > size else "has bytes behind its last tensor"
        raise _broken(path, f"it {what}: its header describes {position:,} bytes, the file has {size:,}")
    return {t.name: t for t in sorted(tensors, key=lambda t: (t.start, t.name))}, metadata


def encode_header(
    entries: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str], like: int | None = None
) -> bytes:
    """The header (length prefix and padding included) of tensors (name, dtype, shape) laid out in this order, with
    metadata in the order given.

    like: a length of another header; this one is padded to the same place within a page of a file system, so that
    the data behind both can be shared where the file system can do that.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, dtype, shape in entries:
        end = offset + num_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-(8 + len(raw)) % ALIGNMENT if like is None else (like - 8 - len(raw)) % PAGE)
    return len(raw).to_bytes(8, "little") + raw


def at_least(header: bytes, length: int) -> bytes:
    """The header padded to `length` bytes, if it is shorter."""
    raw = header[8:] + b" " * max(0, length - len(header))
    return len(raw).to_bytes(8, "little") + raw


def header_bytes(path: Path) -> bytes:
    """The header of a file as it is, its length and padding included."""
    with path.open("rb") as file:
        prefix = file.read(8)
        return prefix + file.read(int.from_bytes(prefix, "little"))


def check_no_pointer(path: Path) -> None:
    """Refuse a text that stands in the place of a file (Git LFS): to download it again the same way gives it again."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise SurgeonError(
                f"{path.name} is a pointer of Git LFS, and the file itself was not fetched",
                str(path),
                "run `git lfs pull` in the folder, or download it with `hf download`",
            )


def _entry(path: Path, name: str, entry: Any, data: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise _broken(path, f"the entry of {name!r} is malformed") from error
    if dtype not in DTYPE_BYTES:
        raise SurgeonError(
            f"tensor {name!r} has the element type {dtype!r}, which is not supported",
            str(path),
            "convert it to F32, BF16 or F16 first",
        )
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)):
        raise _broken(path, f"the entry of {name!r} is malformed")
    if end - begin != num_bytes(dtype, shape):
        raise _broken(path, f"{name!r} has {end - begin} bytes where its shape {list(shape)} needs another number")
    return StoredTensor(name, dtype, shape, path, data + begin, end - begin)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _broken(path: Path, reason: str) -> SurgeonError:
    return SurgeonError(
        f"the shard {path.name} is damaged: {reason}", str(path), "download or copy the checkpoint again"
    )
