"""Shards whose every byte has its place before the first one is written; several threads may fill them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.header import DTYPE_BYTES, StoredTensor, encode_header, num_bytes, read_header
from surgeon.checkpoint.index import INDEX, SINGLE
from surgeon.errors import SurgeonError

Entry = tuple[str, str, tuple[int, ...]]  # name, dtype code, shape
_METADATA = {"format": "pt"}
_COPY_CHUNK = 1 << 26


@dataclass(frozen=True)
class Layout:
    """Which shard holds which tensors, in which order."""

    shards: tuple[tuple[str, tuple[Entry, ...]], ...]

    @property
    def num_bytes(self) -> int:
        return sum(len(encode_header(e, _METADATA)) + sum(num_bytes(d, s) for _, d, s in e) for _, e in self.shards)


def lay_out(entries: Iterable[Entry], shard_bytes: int, single: str = SINGLE) -> Layout:
    """Split by size in the order given; inside a shard wide types come first, so that all data is aligned."""
    groups: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        size = num_bytes(entry[1], entry[2])
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += size
    ordered = [tuple(sorted(group, key=lambda e: -DTYPE_BYTES[e[1]])) for group in groups]
    if len(ordered) == 1:
        return Layout(((single, ordered[0]),))
    stem = single.removesuffix(".safetensors")
    names = [f"{stem}-{i + 1:05d}-of-{len(ordered):05d}.safetensors" for i in range(len(ordered))]
    return Layout(tuple(zip(names, ordered, strict=True)))


class Writer:
    """Open shards of a folder, at full length from the start; positions never change, so order does not matter."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        self._handles: list[int] = []
        self._places: dict[str, tuple[int, int, int]] = {}  # name -> handle, start, bytes
        for shard, entries in layout.shards:
            header = encode_header(entries, _METADATA)
            handle = os.open(folder / shard, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            self._handles.append(handle)
            position = len(header)
            for name, dtype, shape in entries:
                size = num_bytes(dtype, shape)
                self._places[name] = (handle, position, size)
                position += size
            os.ftruncate(handle, position)  # what is never written reads as zero and takes no space
            _pwrite(handle, memoryview(header), 0)

    def write(self, name: str, data: memoryview, offset: int = 0) -> None:
        """Bytes of a tensor from `offset` (relative to its start) on."""
        handle, start, size = self._places[name]
        if offset < 0 or offset + data.nbytes > size:
            raise ValueError(f"{name}: {data.nbytes} bytes at {offset} leave its {size} bytes")
        _pwrite(handle, data, start + offset)

    def copy(self, name: str, source: StoredTensor, begin: int = 0, nbytes: int | None = None) -> None:
        """Bytes [begin, begin + nbytes) of `source` to the same place of `name`, inside the kernel."""
        handle, start, size = self._places[name]
        count = source.nbytes - begin if nbytes is None else nbytes
        if begin + count > min(size, source.nbytes):
            raise ValueError(f"{name}: the copied range leaves the tensor")
        with source.path.open("rb", buffering=0) as file:
            _copy_range(file.fileno(), handle, source.start + begin, start + begin, count)

    def close(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles = []

    def finish(self) -> list[Path]:
        """Close, write the index when there are several shards, read every header back. Gives the shards' paths."""
        for handle in self._handles:
            os.fsync(handle)
        self.close()
        names = [shard for shard, _ in self.layout.shards]
        if len(names) > 1:
            weight_map = {name: shard for shard, entries in self.layout.shards for name, _, _ in entries}
            total = sum(size for _, _, size in self._places.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            (self.folder / INDEX).write_text(dump_json(index), encoding="utf-8")
        for shard, entries in self.layout.shards:
            held, _ = read_header(self.folder / shard)
            assert {(t.name, t.dtype, t.shape) for t in held.values()} == set(entries)
        return [self.folder / name for name in names]


def save_tensors(folder: Path, tensors: Sequence[tuple[str, object]], shard_bytes: int = 5_000_000_000) -> list[Path]:
    """Tensors held in memory, (name, torch tensor), as a checkpoint's shards in the order given."""
    from torch import Tensor

    from surgeon.checkpoint.reader import CODE, to_bytes

    held = [(name, t) for name, t in tensors if isinstance(t, Tensor)]
    assert len(held) == len(tensors)
    writer = Writer(folder, lay_out([(n, CODE[t.dtype], tuple(t.shape)) for n, t in held], shard_bytes))
    try:
        for name, tensor in held:
            writer.write(name, to_bytes(tensor))
        return writer.finish()
    finally:
        writer.close()


def _pwrite(handle: int, data: memoryview, position: int) -> None:
    data = data.cast("B")
    while data.nbytes:
        done = os.pwrite(handle, data[: 1 << 30], position)
        data, position = data[done:], position + done


def _copy_range(source: int, target: int, source_at: int, target_at: int, count: int) -> None:
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
            chunk = os.pread(source, min(count, _COPY_CHUNK), source_at)
            _pwrite(target, memoryview(chunk), target_at)
            done = len(chunk)
        if done == 0:
            raise SurgeonError("a shard ends inside a tensor", f"descriptor {source}", "it changed while it was read")
        source_at, target_at, count = source_at + done, target_at + done, count - done
