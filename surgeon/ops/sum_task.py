"""Computes and writes pieces of weighted sums of 16 MiB of output each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

import numpy as np

from surgeon.checkpoint.decode import RAW
from surgeon.checkpoint.direct import DirectFile
from surgeon.checkpoint.header import DTYPE_BYTES, PAGE
from surgeon.checkpoint.tree_digest import LEAF
from surgeon.ops.done import Done, LeafHasher
from surgeon.ops.sum_piece import SumPiece, piece_bytes
from surgeon.ops.sum_program import WeightedSum

AHEAD = 1 << 22  # bytes that are written together while the next are computed

# the stored bytes of rows [start, stop) of a tensor: for segments that are not plain
Elsewhere = Callable[[int, int], memoryview]


def writer_bytes(program: WeightedSum) -> int:
    """Memory that a SumWriter takes for such a tensor."""
    return 2 * LEAF + piece_bytes(program)


@dataclass(frozen=True, slots=True)
class SumTask:
    """One piece of an output tensor, which lies in `path` from `position` on."""

    program: WeightedSum
    number: int
    path: Path
    position: int

    @property
    def span(self) -> tuple[int, int]:
        """The first byte of the piece within the tensor, and the one behind its last."""
        return self.number * LEAF, min((self.number + 1) * LEAF, self.program.nbytes)


class SumWriter:
    """Writes one piece after the other, in buffers that are made once; one at a time. While a piece is computed, the
    one before it may still be on its way to the disk."""

    def __init__(self) -> None:
        self._slots = [_Slot(DirectFile.buffer(LEAF)) for _ in range(2)]
        self._piece: SumPiece | None = None
        self._pool = ThreadPoolExecutor(1)

    def run(self, task: SumTask, elsewhere: Elsewhere | None = None) -> Done:
        """Raises SurgeonError where an input holds what is no number, and what an earlier write raised. All is written
        when `close` has come back; who takes the record of what is done on trust looks at the digests first."""
        program, hasher = task.program, LeafHasher()
        piece = self._buffers(program)
        begin, end = task.span
        slot = self._slots[0]
        slot.wait()
        self._slots.reverse()
        file = DirectFile(task.path, slot.memory)
        place = task.position + begin
        behind = _Behind(self._pool, file, slot.writes, place, place + (end - begin))
        try:
            for part in self._parts(task, piece, file.piece(place, end - begin), elsewhere):
                hasher.update(part)
                behind.computed(part.nbytes)
        finally:
            slot.writes.append(self._pool.submit(file.close))
        sums = piece.sums if program.has_base else None
        return Done(program.name, task.number, hasher.leaves(), sums, program.models)

    def close(self) -> None:
        """Until all is written; raises what a write raised."""
        self._pool.shutdown()
        for slot in self._slots:
            slot.wait()

    @staticmethod
    def _parts(task: SumTask, piece: SumPiece, data: memoryview, elsewhere: Elsewhere | None) -> Iterator[memoryview]:
        """The bytes of the piece, in order, where they are in `data`."""
        program = task.program
        begin, end = task.span
        size, width = DTYPE_BYTES[program.dtype], program.width
        for segment in program.segments:
            start, stop = max(begin // size, segment.start * width), min(end // size, segment.stop * width)
            if start >= stop:
                continue
            part = data[start * size - begin : stop * size - begin]
            if segment.plain:
                into = np.frombuffer(part, RAW[program.dtype])
                for block in piece.blocks(segment, start, stop, into):
                    yield block.data.cast("B")
            else:
                assert elsewhere is not None
                first, last = start // width, -(-stop // width)
                part[:] = elsewhere(first, last)[(start - first * width) * size : (stop - first * width) * size]
                yield part

    def _buffers(self, program: WeightedSum) -> SumPiece:
        """They serve one piece after the other of tensors that are read alike."""
        if self._piece is None or not self._piece.fits(program):
            self._piece = SumPiece(program)
        self._piece.begin(program)
        return self._piece


class _Slot:
    """A buffer, and the writes out of it."""

    def __init__(self, memory: mmap) -> None:
        self.memory = memory
        self.writes: list[Future[None]] = []

    def wait(self) -> None:
        """Until all of them are done, so that the buffer is free; raises what the first that failed raised."""
        writes = list(self.writes)
        self.writes.clear()
        wait(writes)
        for write in writes:
            write.result()


class _Behind:
    """Writes bytes [place, end) of a file while they are computed, some whole pages at a time, in another thread."""

    def __init__(
        self, pool: ThreadPoolExecutor, file: DirectFile, writes: list[Future[None]], place: int, end: int
    ) -> None:
        self._pool, self._file, self._writes = pool, file, writes
        self._written = self._ready = place
        self._end = end

    def computed(self, nbytes: int) -> None:
        """So many bytes more."""
        self._ready += nbytes
        whole = self._ready if self._ready == self._end else self._ready - self._ready % PAGE
        if self._ready == self._end or whole - self._written >= AHEAD:
            self._writes.append(self._pool.submit(self._file.write, self._written, whole - self._written))
            self._written = whole
