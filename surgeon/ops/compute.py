"""The part of the executor that computes: tensors whose bytes are not just copied; imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load as load_table

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.reader import TORCH, to_bytes
from surgeon.checkpoint.rounding import round_once
from surgeon.checkpoint.writer import Writer
from surgeon.ops.done import Done, LeafHasher
from surgeon.ops.evaluate import Evaluator, Run
from surgeon.ops.finite import check_merged
from surgeon.ops.measure_change import ChangeMeter
from surgeon.ops.memory_gate import MemoryGate
from surgeon.ops.plan import Copy, OutTensor, Plan, Rows, Zeros
from surgeon.ops.rowwise import chunk_rows, rowwise
from surgeon.ops.working_bytes import rows_bytes, working_bytes


class Computer:
    """Computes tensors of one plan into one writer, from any thread, as far as the gate lets it."""

    def __init__(self, plan: Plan, inputs: Mapping[str, Checkpoint], writer: Writer, gate: MemoryGate) -> None:
        tables = {name: load_table(raw) for name, raw in plan.attachments.items()}
        self.evaluator = Evaluator(inputs, plan.seed, tables)
        self.writer = writer
        self.gate = gate

    def write(self, out: OutTensor) -> Done:
        """One tensor; the digests of its pieces where all of it passes through here."""
        torch.set_num_threads(1)  # of this worker: the tensors are what is done side by side
        if isinstance(out.source, Rows) and any(isinstance(p.source, Copy) for p in out.source.pieces):
            self._write_rows(out)
            return Done(out.name, 0, ())
        with self.gate.hold(working_bytes(out, self.evaluator.inputs)):
            return self._write_computed(out)

    def rows(self, out: OutTensor, start: int, stop: int) -> memoryview:
        """The stored bytes of some rows, not written."""
        torch.set_num_threads(1)
        with self.gate.hold(rows_bytes(out, self.evaluator.inputs, stop - start)):
            cache: dict[str, Any] = {}
            parts = [to_bytes(self.evaluator.tensor(out, run, cache)) for run in _chunks(out, start, stop)]
        return memoryview(b"".join(parts))

    def _write_rows(self, out: OutTensor) -> None:
        """Copied runs inside the kernel; computed runs evaluated at their rows."""
        row = out.nbytes // out.shape[0]
        assert isinstance(out.source, Rows)
        cache: dict[str, Any] = {}
        for piece in out.source.pieces:
            for start, stop in piece.ids:
                match piece.source:
                    case Copy():
                        stored = self.evaluator.stored(piece.source)
                        begin = (start + piece.source.shift) * row
                        self.writer.copy(out.name, stored, begin, (stop - start) * row, start * row)
                    case Zeros():
                        pass
                    case _:
                        with self.gate.hold(working_bytes(out, self.evaluator.inputs)):
                            for run in _chunks(out, start, stop):
                                data = to_bytes(self.evaluator.tensor(out, run, cache))
                                self.writer.write(out.name, data, run[0] * row)

    def _write_computed(self, out: OutTensor) -> Done:
        whole = not out.shape or not rowwise(out.source)
        row = out.nbytes // out.shape[0] if out.shape else 0
        cache: dict[str, Any] = {}
        meter, hasher = ChangeMeter.of(out, self.evaluator), LeafHasher()
        for rows in [None] if whole else _chunks(out, 0, out.shape[0]):
            if meter is None:
                stored = self.evaluator.tensor(out, rows, cache)
                check_merged(out, stored, self.evaluator)
            else:
                exact = meter.exact(rows, cache)
                same = meter.change.exact is out.source
                stored = round_once(exact, TORCH[out.dtype]) if same else self.evaluator.tensor(out, rows, cache)
                meter.add(exact, stored)
            data = to_bytes(stored)
            self.writer.write(out.name, data, 0 if rows is None else rows[0] * row)
            hasher.update(data)
        sums = None if meter is None else meter.sums
        return Done(out.name, 0, hasher.leaves(), sums, () if meter is None else meter.models)


def _chunks(out: OutTensor, start: int, stop: int) -> Iterator[Run]:
    step = chunk_rows(out.shape)
    for first in range(start, stop, step):
        yield first, min(first + step, stop)
