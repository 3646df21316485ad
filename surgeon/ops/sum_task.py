"""Computes and writes pieces of weighted sums of 16 MiB of output each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgeon.checkpoint.decode import RAW
from surgeon.checkpoint.direct import DirectFile
from surgeon.checkpoint.header import DTYPE_BYTES, PAGE
from surgeon.checkpoint.tree_digest import LEAF
from surgeon.ops.done import Done, LeafHasher
from surgeon.ops.sum_piece import SumPiece
from surgeon.ops.sum_program import WeightedSum

AHEAD = 1 << 22  # bytes that are written together while the next are computed

# the stored bytes of rows [start, stop) of a tensor: for segments that are not plain
Elsewhere = Callable[[int, int], memoryview]


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
    """Writes one piece after the other, in buffers that are made once; for one thread."""

    def __init__(self) -> None:
        self._memory = DirectFile.buffer(LEAF)
        self._piece: SumPiece | None = None
        self._pool = ThreadPoolExecutor(1)

    def run(self, task: SumTask, elsewhere: Elsewhere | None = None) -> Done:
        """Raises SurgeonError where an input holds what is no number."""
        program, hasher = task.program, LeafHasher()
        piece = self._buffers(program)
        begin, end = task.span
        with DirectFile(task.path, self._memory) as file:
            place = task.position + begin
            behind = _Behind(self._pool, file, place, place + (end - begin))
            try:
                for part in self._parts(task, piece, file.piece(place, end - begin), elsewhere):
                    hasher.update(part)
                    behind.computed(part.nbytes)
            finally:
                behind.wait()
        sums = piece.sums if program.has_base else None
        return Done(program.name, task.number, hasher.leaves(), sums, program.models)

    def close(self) -> None:
        self._pool.shutdown()

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


class _Behind:
    """Writes bytes [place, end) of a file while they are computed, some whole pages at a time, in another thread."""

    def __init__(self, pool: ThreadPoolExecutor, file: DirectFile, place: int, end: int) -> None:
        self._pool, self._file = pool, file
        self._written = self._ready = place
        self._end = end
        self._writes: list[Future[None]] = []

    def computed(self, nbytes: int) -> None:
        """So many bytes more."""
        self._ready += nbytes
        whole = self._ready if self._ready == self._end else self._ready - self._ready % PAGE
        if self._ready == self._end or whole - self._written >= AHEAD:
            self._writes.append(self._pool.submit(self._file.write, self._written, whole - self._written))
            self._written = whole

    def wait(self) -> None:
        """Until nothing writes any more, so that the file can be closed; raises what the first write raised."""
        wait(self._writes)
        for write in self._writes:
            write.result()
