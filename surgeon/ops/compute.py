"""The part of the executor that computes: tensors whose bytes are not just copied; imports torch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from safetensors.torch import load as load_table

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.reader import TORCH, to_bytes
from surgeon.checkpoint.rounding import round_once
from surgeon.checkpoint.writer import Writer
from surgeon.ops.check import working_bytes
from surgeon.ops.evaluate import Evaluator, Run, chunk_rows, rowwise
from surgeon.ops.memory import memory_budget
from surgeon.ops.plan import Copy, OutTensor, Plan, Rows, Zeros
from surgeon.ops.survival import Survival, change_of


class Computer:
    """Computes tensors of one plan into one writer, from any thread, within the memory that is there."""

    def __init__(self, plan: Plan, inputs: Mapping[str, Checkpoint], writer: Writer) -> None:
        tables = {name: load_table(raw) for name, raw in plan.attachments.items()}
        self.evaluator = Evaluator(inputs, plan.seed, tables)
        self.writer = writer
        self.gate = MemoryGate(memory_budget())
        self.survival = Survival()

    def write(self, out: OutTensor) -> None:
        torch.set_num_threads(1)  # of this worker: the tensors are what is done side by side
        if isinstance(out.source, Rows) and any(isinstance(p.source, Copy) for p in out.source.pieces):
            self._write_rows(out)
            return
        with self.gate.hold(working_bytes(out, self.evaluator.inputs)):
            self._write_computed(out)

    def _write_rows(self, out: OutTensor) -> None:
        """Copied runs inside the kernel; computed runs evaluated at their rows."""
        row = out.nbytes // out.shape[0]
        assert isinstance(out.source, Rows)
        cache: dict[str, torch.Tensor] = {}
        for piece in out.source.pieces:
            for start, stop in piece.ids:
                match piece.source:
                    case Copy():
                        stored = self.evaluator.stored(piece.source)
                        self.writer.copy(out.name, stored, start * row, (stop - start) * row)
                    case Zeros():
                        pass
                    case _:
                        with self.gate.hold(working_bytes(out, self.evaluator.inputs)):
                            data = to_bytes(self.evaluator.tensor(out, (start, stop), cache))
                            self.writer.write(out.name, data, start * row)

    def _write_computed(self, out: OutTensor) -> None:
        if not out.shape or not rowwise(out.source):
            self.writer.write(out.name, to_bytes(self._tensor(out)))
            return
        row = out.nbytes // out.shape[0]
        step = chunk_rows(out.shape)
        cache: dict[str, torch.Tensor] = {}
        for start in range(0, out.shape[0], step):
            stop = min(start + step, out.shape[0])
            self.writer.write(out.name, to_bytes(self._tensor(out, (start, stop), cache)), start * row)

    def _tensor(
        self, out: OutTensor, rows: Run | None = None, cache: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The tensor or some of its rows as stored; where it is a change of another one, what survives is counted."""
        change = change_of(out.source)
        if change is None:
            return self.evaluator.tensor(out, rows, cache)
        exact = self.evaluator.value(change.exact, out.shape, out.name, rows, cache)
        base = self.evaluator.value(change.base, out.shape, out.name, rows, cache)
        same = change.exact is out.source
        rounded = round_once(exact, TORCH[out.dtype]) if same else self.evaluator.tensor(out, rows, cache)
        self.survival.add(out.name, base, exact, rounded)
        return rounded


class MemoryGate:
    """Lets computations start only while the sum of what they said they need stays within the budget."""

    def __init__(self, budget: int) -> None:
        self.budget, self._held = budget, 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, need: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + need <= self.budget)
            self._held += need
        try:
            yield
        finally:
            with self._changed:
                self._held -= need
                self._changed.notify_all()
