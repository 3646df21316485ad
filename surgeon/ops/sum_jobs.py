"""Weighted sums as jobs of 16 MiB of output each, so that all threads have something to do and a run can go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from surgeon.checkpoint.tree_digest import LEAF
from surgeon.checkpoint.writer import Writer
from surgeon.ops.done import Done
from surgeon.ops.memory_gate import MemoryGate
from surgeon.ops.plan import OutTensor
from surgeon.ops.sum_program import WeightedSum
from surgeon.ops.sum_task import SumTask, SumWriter, writer_bytes

# the stored bytes of rows [start, stop) of a tensor: for segments that are not plain
Elsewhere = Callable[[OutTensor, int, int], memoryview]


class SumJobs:
    """Writes pieces of weighted sums, from any thread. gate: of the memory that the buffers of all of them may take
    (None: as many as there are threads); one at a time is done in any case, and is checked before (surgeon.ops.check).
    """

    def __init__(self, writer: Writer, elsewhere: Elsewhere, gate: MemoryGate | None) -> None:
        self.writer, self._elsewhere, self._gate = writer, elsewhere, gate
        self._largest = 0
        self._writers: list[SumWriter] = []
        self._free: list[SumWriter] = []
        self._changed = threading.Condition() if gate is None else gate.changed

    def pieces(self, program: WeightedSum) -> range:
        """The numbers of the tensor's pieces, which are to be done."""
        self._largest = max(self._largest, writer_bytes(program))
        return range(-(-program.nbytes // LEAF))

    def run(self, out: OutTensor, program: WeightedSum, number: int) -> Done:
        """Compute and write one piece."""
        task = SumTask(program, number, *self.writer.place(out.name))
        with self._held() as writer:
            return writer.run(task, lambda start, stop: self._elsewhere(out, start, stop))

    def close(self) -> None:
        """When nothing runs any more: until all is written; raises what a write raised."""
        with ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)

    @contextmanager
    def _held(self) -> Iterator[SumWriter]:
        """A writer for this thread alone, once there is one or room for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._has_room())
            if not self._free:
                self._free.append(SumWriter())
                self._writers.append(self._free[-1])
            writer = self._free.pop()
        try:
            yield writer
        finally:
            with self._changed:
                self._free.append(writer)
                self._changed.notify_all()  # others may wait for room

    def _has_room(self) -> bool:
        return self._gate is None or self._gate.keep(self._largest)
