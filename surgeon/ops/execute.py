"""The executor: the only code of surgery that touches tensor bytes; bounded memory, same bytes for any threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_table

from surgeon.checkpoint.commit import check_out, staged
from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.header import num_bytes
from surgeon.checkpoint.index import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, SINGLE, Checkpoint
from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage, Parent, dump_lineage, output_digests, versions
from surgeon.checkpoint.reader import to_bytes
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.checkpoint.writer import Writer, lay_out
from surgeon.errors import SurgeonError
from surgeon.ops.check import check, working_bytes
from surgeon.ops.evaluate import Evaluator, chunk_rows, rowwise
from surgeon.ops.memory import memory_budget, peak_rss_bytes
from surgeon.ops.plan import Copy, OutTensor, Plan, Rows, Zeros
from surgeon.ops.result import Result
from surgeon.progress import SILENT, Advance, Progress


def execute(
    plan: Plan, out: Path, *, threads: int | None = None, force: bool = False, progress: Progress = SILENT
) -> Result:
    """Carry out a checked plan: everything at `out`, or nothing. Raises SurgeonError with nothing left at `out`."""
    started = time.perf_counter()
    check_out(out, force)
    check(plan, out)
    inputs = {i.role: Checkpoint.open(i.path) for i in plan.inputs}
    tables = {name: load_table(raw) for name, raw in plan.attachments.items()}
    evaluator = Evaluator(inputs, plan.seed, tables)
    threads = threads or min(os.cpu_count() or 1, 8)
    with staged(out, force) as folder:
        _write_shards(plan, folder, evaluator, threads, progress)
        _write_files(plan, folder, inputs)
        digests = output_digests(folder, threads)
        (folder / LINEAGE_FILE).write_text(dump_lineage(_lineage(plan, out, inputs, digests)), encoding="utf-8")
        verified = _verify(plan, folder)
    return Result(
        out=str(out),
        operation=plan.operation,
        tensors=len(plan.tensors),
        parameters=parameters(plan),
        bytes_written=plan.nbytes,
        seconds=round(time.perf_counter() - started, 3),
        peak_rss_bytes=peak_rss_bytes(),
        plan_digest=plan.digest,
        verified=verified,
    )


def parameters(plan: Plan) -> int:
    """Stored elements; a tied head that is not stored is not counted twice."""
    return sum(t.nbytes // num_bytes(t.dtype, ()) for t in plan.tensors)


def _write_shards(plan: Plan, folder: Path, evaluator: Evaluator, threads: int, progress: Progress) -> None:
    single = ADAPTER_WEIGHTS if plan.kind == "adapter" else SINGLE
    writer = Writer(folder, lay_out([(t.name, t.dtype, t.shape) for t in plan.tensors], plan.shard_bytes, single))
    gate = MemoryGate(memory_budget())
    largest_first = sorted(plan.tensors, key=lambda t: -t.nbytes)
    try:
        with (
            progress.task("writing", plan.nbytes, "bytes") as advance,
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            jobs = [pool.submit(_write_tensor, writer, evaluator, t, gate, advance) for t in largest_first]
            done, pending = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in pending:
                job.cancel()
            for job in done:
                job.result()
        writer.finish()
    finally:
        writer.close()


def _write_tensor(writer: Writer, evaluator: Evaluator, out: OutTensor, gate: MemoryGate, advance: Advance) -> None:
    match out.source:
        case Copy():
            writer.copy(out.name, evaluator.stored(out.source))
        case Zeros():
            pass  # the file is already there at full length and reads as zero
        case Rows() if _is_copied_rows(out):
            _write_rows(writer, evaluator, out, gate)
        case _:
            with gate.hold(working_bytes(out, evaluator.inputs)):
                _write_computed(writer, evaluator, out)
    advance(out.nbytes)


def _is_copied_rows(out: OutTensor) -> bool:
    return isinstance(out.source, Rows) and any(isinstance(p.source, Copy) for p in out.source.pieces)


def _write_rows(writer: Writer, evaluator: Evaluator, out: OutTensor, gate: MemoryGate) -> None:
    """Copied runs inside the kernel; computed runs evaluated at their rows."""
    row = out.nbytes // out.shape[0]
    assert isinstance(out.source, Rows)
    cache: dict[str, torch.Tensor] = {}
    for piece in out.source.pieces:
        for start, stop in piece.ids:
            match piece.source:
                case Copy():
                    writer.copy(out.name, evaluator.stored(piece.source), start * row, (stop - start) * row)
                case Zeros():
                    pass
                case _:
                    with gate.hold(working_bytes(out, evaluator.inputs)):
                        data = to_bytes(evaluator.tensor(out, (start, stop), cache))
                        writer.write(out.name, data, start * row)


def _write_computed(writer: Writer, evaluator: Evaluator, out: OutTensor) -> None:
    if not out.shape or not rowwise(out.source):
        writer.write(out.name, to_bytes(evaluator.tensor(out)))
        return
    row = out.nbytes // out.shape[0]
    step = chunk_rows(out.shape)
    cache: dict[str, torch.Tensor] = {}
    for start in range(0, out.shape[0], step):
        stop = min(start + step, out.shape[0])
        writer.write(out.name, to_bytes(evaluator.tensor(out, (start, stop), cache)), start * row)


def _write_files(plan: Plan, folder: Path, inputs: Mapping[str, Checkpoint]) -> None:
    name = ADAPTER_CONFIG if plan.kind == "adapter" else CONFIG
    (folder / name).write_text(dump_json(dict(plan.config)), encoding="utf-8")
    for carried, role in plan.carried.items():
        _put(folder / carried, (inputs[role].path / carried).read_bytes())
    for written, text in plan.files.items():
        _put(folder / written, text.encode("utf-8"))
    for written, raw in plan.binary.items():
        _put(folder / written, raw)
    for attached, raw in plan.attachments.items():
        _put(folder / SURGEON_DIR / attached, raw)


def _put(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def _lineage(plan: Plan, out: Path, inputs: Mapping[str, Checkpoint], digests: dict[str, str]) -> Lineage:
    parents = [
        Parent(
            role=i.role,
            name=i.name or i.path.absolute().name,
            path=os.path.relpath(i.path.resolve(), out.absolute().resolve()),
            digest=i.digest,
            lineage=inputs[i.role].lineage,
        )
        for i in plan.inputs
    ]
    return plan.lineage.model_copy(
        update={
            "operation": plan.operation,
            "settings": dict(plan.settings),
            "seed": plan.seed,
            "plan": plan.digest,
            "parents": parents,
            "versions": versions(),
            "files": digests,
        }
    )


def _verify(plan: Plan, folder: Path) -> dict[str, Any]:
    """Re-open what was written with the safetensors library and with our own reader."""
    from safetensors import safe_open

    names: list[str] = []
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as held:
            names += list(held.keys())
    expected = sorted(t.name for t in plan.tensors)
    if sorted(names) != expected:
        raise SurgeonError("the written shards do not hold the planned tensors", str(folder), "report this")
    if plan.kind == "model":
        Checkpoint.open(folder)
    return {"reopened": True, "tensors": len(names)}


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
