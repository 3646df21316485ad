"""What there is to write of a plan, in pieces that any thread may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.tree_digest import LEAF
from surgeon.checkpoint.writer import Writer
from surgeon.ops.done import Done
from surgeon.ops.memory import memory_budget
from surgeon.ops.memory_gate import MemoryGate
from surgeon.ops.plain import is_plain, plain_bytes
from surgeon.ops.plan import Copy, OutTensor, Plan
from surgeon.ops.weighted_sum import weighted_sum
from surgeon.ops.working_bytes import needed_bytes

if TYPE_CHECKING:
    from surgeon.ops.compute import Computer
    from surgeon.ops.sum_jobs import SumJobs

Job = tuple[int, Callable[[], "Done | None"]]  # bytes, what writes them


class Jobs:
    """Of one plan into one writer. done: what is there already. To be closed when they have been carried out."""

    def __init__(
        self, plan: Plan, writer: Writer, inputs: Mapping[str, Checkpoint], memory: int | None, done: Sequence[Done]
    ) -> None:
        self._plan, self._writer, self._inputs = plan, writer, inputs
        self._computing = _Computing(plan, writer, inputs, memory)
        self._done = {(d.name, d.first) for d in done}

    def all(self) -> list[Job]:
        """What is to be computed, the largest first, then runs of copied tensors. Zeros need nothing: the files are
        there at full length and read as zero."""
        jobs: list[Job] = []
        for tensor in computed(self._plan):
            found = self._computing.jobs(tensor)
            jobs += [job for first, job in found if (tensor.name, first) not in self._done]
        copies = [
            (t.name, self._inputs[t.source.model].tensor(t.source.tensor))
            for t in self._plan.tensors
            if isinstance(t.source, Copy)
        ]
        jobs += [(run.nbytes, partial(self._writer.copy_run, run)) for run in self._writer.runs(copies)]
        plain = [(t.name, raw) for t in self._plan.tensors if (raw := plain_bytes(t)) is not None]
        return jobs + [(len(raw), partial(self._writer.write, name, memoryview(raw))) for name, raw in plain]

    def close(self) -> None:
        self._computing.close()


def computed(plan: Plan) -> list[OutTensor]:
    """What is neither copied nor plain, largest first."""
    found = [t for t in plan.tensors if not isinstance(t.source, Copy) and not is_plain(t)]
    return sorted(found, key=lambda t: -t.nbytes)


class _Computing:
    """numpy and torch are imported only where there is something for them to compute."""

    def __init__(self, plan: Plan, writer: Writer, inputs: Mapping[str, Checkpoint], memory: int | None) -> None:
        self.plan, self.writer, self.inputs, self.is_bounded = plan, writer, inputs, memory is not None
        self.gate = MemoryGate(memory_budget() if memory is None else memory)
        self._computer: Computer | None = None
        self._sums: SumJobs | None = None

    def jobs(self, tensor: OutTensor) -> list[tuple[int, Job]]:
        """(number of the first piece that it writes, the job) of a tensor."""
        program = weighted_sum(tensor, self.inputs)
        self.gate.reserve = max(self.gate.reserve, needed_bytes(tensor, self.inputs, program)[0])
        if program is None:
            return [(0, (tensor.nbytes, partial(self.computer().write, tensor)))]
        from surgeon.ops.sum_jobs import SumJobs

        if self._sums is None:
            self._sums = SumJobs(self.writer, self._rows, self.gate if self.is_bounded else None)
        if not program.is_plain:
            self.computer()  # made here, not by the thread that meets it first
        return [
            (n, (min(LEAF, tensor.nbytes - n * LEAF), partial(self._sums.run, tensor, program, n)))
            for n in self._sums.pieces(program)
        ]

    def close(self) -> None:
        if self._sums is not None:
            self._sums.close()

    def computer(self) -> Computer:
        if self._computer is None:
            from surgeon.ops.compute import Computer

            self._computer = Computer(self.plan, self.inputs, self.writer, self.gate)
        return self._computer

    def _rows(self, tensor: OutTensor, start: int, stop: int) -> memoryview:
        return self.computer().rows(tensor, start, stop)
