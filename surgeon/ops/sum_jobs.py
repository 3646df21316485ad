"""Weighted sums as jobs of 16 MiB of output each, so that all threads have something to do and a run can go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

from surgeon.checkpoint.tree_digest import LEAF
from surgeon.checkpoint.writer import Writer
from surgeon.ops.done import Done
from surgeon.ops.plan import OutTensor
from surgeon.ops.sum_program import WeightedSum
from surgeon.ops.sum_task import SumTask, SumWriter

# the stored bytes of rows [start, stop) of a tensor: for segments that are not plain
Elsewhere = Callable[[OutTensor, int, int], memoryview]


class SumJobs:
    """Writes pieces of weighted sums, from any thread, each with buffers of its own."""

    def __init__(self, writer: Writer, elsewhere: Elsewhere) -> None:
        self.writer, self._elsewhere = writer, elsewhere
        self._local = threading.local()
        self._writers: list[SumWriter] = []

    @staticmethod
    def pieces(program: WeightedSum) -> range:
        """The numbers of the tensor's pieces."""
        return range(-(-program.nbytes // LEAF))

    def run(self, out: OutTensor, program: WeightedSum, number: int) -> Done:
        """Compute and write one piece."""
        task = SumTask(program, number, *self.writer.place(out.name))
        return self._own().run(task, lambda start, stop: self._elsewhere(out, start, stop))

    def close(self) -> None:
        """When nothing runs any more: until all is written; raises what a write raised."""
        with ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)

    def _own(self) -> SumWriter:
        """Of this thread."""
        if not hasattr(self._local, "writer"):
            self._local.writer = SumWriter()
            self._writers.append(self._local.writer)
        writer: SumWriter = self._local.writer
        return writer
