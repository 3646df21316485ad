"""Weighted sums as jobs of 16 MiB of output each, so that all threads have something to do and a run can go on."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping

from surgeon.checkpoint.header import DTYPE_BYTES
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.tree_digest import LEAF
from surgeon.checkpoint.writer import Writer
from surgeon.ops.done import Done, LeafHasher
from surgeon.ops.plan import OutTensor
from surgeon.ops.sum_piece import SumPiece
from surgeon.ops.weighted_sum import Segment, WeightedSum

# the stored bytes of rows [start, stop) of a tensor: for segments that are not plain
Elsewhere = Callable[[OutTensor, int, int], memoryview]


class SumJobs:
    """Writes pieces of weighted sums, from any thread."""

    def __init__(self, inputs: Mapping[str, Checkpoint], writer: Writer, elsewhere: Elsewhere) -> None:
        self.inputs, self.writer, self._elsewhere = inputs, writer, elsewhere
        self._local = threading.local()

    def pieces(self, out: OutTensor) -> range:
        """The numbers of the tensor's pieces."""
        return range(-(-out.nbytes // LEAF))

    def run(self, out: OutTensor, program: WeightedSum, number: int) -> Done:
        """Compute and write one piece."""
        size = DTYPE_BYTES[out.dtype]
        begin, end = number * LEAF // size, min((number + 1) * LEAF, out.nbytes) // size
        width = math.prod(out.shape[1:])
        piece, hasher = self._piece(out, program), LeafHasher()
        for segment in program.segments:
            start, stop = max(begin, segment.start * width), min(end, segment.stop * width)
            if start < stop and segment.plain:
                for block in piece.blocks(segment, start, stop):
                    self.writer.write(out.name, block.data, block.start * size)
                    hasher.update(block.data)
            elif start < stop:
                data = self._not_plain(out, segment, start, stop, width, size)
                self.writer.write(out.name, data, start * size)
                hasher.update(data)
        self.writer.start_writeback(out.name, begin * size, (end - begin) * size)
        return Done(out.name, number, hasher.leaves(), piece.sums if program.has_base else None, program.models)

    def _not_plain(self, out: OutTensor, segment: Segment, start: int, stop: int, width: int, size: int) -> memoryview:
        first, last = start // width, -(-stop // width)
        data = self._elsewhere(out, max(first, segment.start), min(last, segment.stop))
        return data[(start - first * width) * size : (stop - first * width) * size]

    def _piece(self, out: OutTensor, program: WeightedSum) -> SumPiece:
        """Buffers are this thread's and serve one piece after the other of tensors that are read alike."""
        held: SumPiece | None = getattr(self._local, "piece", None)
        if held is None or not held.fits(out, program):
            held = SumPiece(out, program, self.inputs)
            self._local.piece = held
        held.begin(out, program)
        return held
