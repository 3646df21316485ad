"""Shards whose every byte has its place before the first one is written; several threads may fill them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.copy_file import copy_range, link_file, shares_data, start_writeback, write_at
from surgeon.checkpoint.direct import DirectFile
from surgeon.checkpoint.header import (
    DTYPE_BYTES,
    StoredTensor,
    at_least,
    encode_header,
    header_bytes,
    num_bytes,
    read_header,
)
from surgeon.checkpoint.index import INDEX, SINGLE

Entry = tuple[str, str, tuple[int, ...]]  # name, dtype code, shape
METADATA = {"format": "pt"}
_LONG, _CHUNK = 1 << 20, 1 << 22  # bytes of a run that goes past the page cache, and of what it takes at a time
_RUN = 1 << 26  # a run grows up to about this, so that several threads have something to do until the end


@dataclass(frozen=True)
class Layout:
    """Which shard holds which tensors, in which order.

    whole: shard -> the file of an input that it is the same as, header included. like: shard -> the length of the
    header of the input's file that its data comes from (see encode_header). lengths: shard -> the length of its
    header, where it is to be that of another file. metadata: shard -> what its header says, where it is not METADATA.
    index: what the index says beside its map (empty: total_size).
    """

    shards: tuple[tuple[str, tuple[Entry, ...]], ...]
    whole: Mapping[str, Path] = field(default_factory=dict)
    like: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return sum(len(self.header(shard)) + self.data_bytes([shard]) for shard, _ in self.shards)

    def data_bytes(self, shards: Iterable[str]) -> int:
        """The bytes of the tensors of some shards."""
        entries = dict(self.shards)
        return sum(num_bytes(dtype, shape) for shard in shards for _, dtype, shape in entries[shard])

    def header(self, shard: str) -> bytes:
        if shard in self.whole:
            return header_bytes(self.whole[shard])
        entries, metadata = dict(self.shards)[shard], self.metadata.get(shard, METADATA)
        if shard in self.lengths:
            return at_least(encode_header(entries, metadata), self.lengths[shard])
        return encode_header(entries, metadata, self.like.get(shard))


@dataclass(frozen=True)
class Run:
    """Bytes that lie together in a file of an input and in one of the output."""

    handle: int
    position: int
    path: Path
    start: int
    nbytes: int


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
    return Layout(tuple(zip(shard_names(len(ordered), single), ordered, strict=True)))


def shard_names(count: int, single: str = SINGLE) -> list[str]:
    """The file names of this many shards."""
    if count == 1:
        return [single]
    stem = single.removesuffix(".safetensors")
    return [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


class Writer:
    """Open shards of a folder, at full length from the start; positions never change, so order does not matter.

    index: write one for a single shard too, where other safetensors files lie beside the model's (a loader that takes
    every one of a folder keeps to those that the index names) or it has a name that no loader looks for. link: shards
    that are the same as a file of an input are made a second name of it. resume: shards that are there already, of
    the same length and with the same header, are taken as they are.
    """

    def __init__(
        self, folder: Path, layout: Layout, index: bool = False, link: bool = False, resume: bool = False
    ) -> None:
        self.folder, self.layout = folder, layout
        self.linked = tuple(layout.whole) if link else ()
        self.has_index = index or len(layout.shards) > 1
        self._handles: list[int] = []
        self._places: dict[str, tuple[int, int, int]] = {}  # name -> handle, start, bytes
        self._paths: dict[int, Path] = {}
        for shard, entries in layout.shards:
            path = folder / shard
            if shard in self.linked:
                path.unlink(missing_ok=True)
                link_file(layout.whole[shard], path)
                continue
            header = layout.header(shard)
            if path.exists() and not (resume and _begins_with(path, header)):
                path.unlink()
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
            self._handles.append(handle)
            self._paths[handle] = path
            position = len(header)
            for name, dtype, shape in entries:
                size = num_bytes(dtype, shape)
                self._places[name] = (handle, position, size)
                position += size
            os.ftruncate(handle, position)  # what is never written reads as zero and takes no space
            write_at(handle, memoryview(header), 0)

    def place(self, name: str, offset: int = 0) -> tuple[Path, int]:
        """The file of a tensor, and where in it the byte `offset` of the tensor lies."""
        handle, start, _ = self._places[name]
        return self._paths[handle], start + offset

    def start_writeback(self, name: str, offset: int, nbytes: int) -> None:
        """The disk begins to write these bytes of a tensor."""
        handle, start, _ = self._places[name]
        start_writeback(handle, start + offset, nbytes)

    def write(self, name: str, data: memoryview, offset: int = 0) -> None:
        """Bytes of a tensor from `offset` (relative to its start) on."""
        handle, start, size = self._places[name]
        if offset < 0 or offset + data.nbytes > size:
            raise ValueError(f"{name}: {data.nbytes} bytes at {offset} leave its {size} bytes")
        write_at(handle, data, start + offset)

    def copy(
        self, name: str, source: StoredTensor, begin: int = 0, nbytes: int | None = None, to: int | None = None
    ) -> None:
        """Bytes [begin, begin + nbytes) of `source` to the same place of `name` (or to `to`), inside the kernel."""
        handle, start, size = self._places[name]
        count = source.nbytes - begin if nbytes is None else nbytes
        to = begin if to is None else to
        if begin < 0 or to < 0 or begin + count > source.nbytes or to + count > size:
            raise ValueError(f"{name}: the copied range leaves the tensor")
        with source.path.open("rb", buffering=0) as file:
            copy_range(file.fileno(), handle, source.start + begin, start + to, count)

    def runs(self, copies: Iterable[tuple[str, StoredTensor]]) -> list[Run]:
        """Whole tensors to copy, neighbours in both files taken together; tensors of linked shards need nothing.
        In an order in which neighbouring runs lie in different shards, which can be written at one time."""
        found: dict[int, list[Run]] = {handle: [] for handle in self._handles}
        placed = ((*self._places[name], source) for name, source in copies if name in self._places)
        for handle, position, nbytes, source in sorted(placed, key=lambda p: p[:2]):
            assert nbytes == source.nbytes
            last = found[handle][-1] if found[handle] else None
            if (
                last is not None
                and last.path == source.path
                and (last.position + last.nbytes, last.start + last.nbytes) == (position, source.start)
                and last.nbytes < _RUN
            ):
                found[handle][-1] = replace(last, nbytes=last.nbytes + nbytes)
            elif nbytes:
                found[handle].append(Run(handle, position, source.path, source.start, nbytes))
        return [run for turn in zip_longest(*found.values()) for run in turn if run is not None]

    def copy_run(self, run: Run) -> None:
        """One of `runs`: inside the kernel where the files can share data or it is short, else past the page cache, as
        the disk is waited for in the end; it begins to write at once."""
        with run.path.open("rb", buffering=0) as file:
            source = file.fileno()
            if run.nbytes < _LONG or shares_data(source, run.handle, run.start, run.position, run.nbytes):
                copy_range(source, run.handle, run.start, run.position, run.nbytes)
                start_writeback(run.handle, run.position, run.nbytes)
                return
            with DirectFile(self._paths[run.handle], DirectFile.buffer(_CHUNK)) as target:
                target.copy(source, run.start, run.position, run.nbytes)

    def close(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles = []

    def finish(self) -> list[Path]:
        """Close, write the index where one is needed, read every header back. Gives the shards' paths."""
        for handle in self._handles:
            os.fsync(handle)
        self.close()
        names = [shard for shard, _ in self.layout.shards]
        if self.has_index:
            weight_map = {name: shard for shard, entries in self.layout.shards for name, _, _ in entries}
            metadata = dict(self.layout.index) or {"total_size": self.layout.data_bytes(names)}
            index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
            (self.folder / INDEX).write_text(dump_json(index), encoding="utf-8")
        for shard, entries in self.layout.shards:
            held, _ = read_header(self.folder / shard)
            assert {(t.name, t.dtype, t.shape) for t in held.values()} == set(entries)
        return [self.folder / name for name in names]


def _begins_with(path: Path, header: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(header)) == header


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
