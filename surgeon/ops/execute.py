"""The executor: the only code of surgery that touches tensor bytes; bounded memory, same bytes for any threads."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.commit import check_out, staged
from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.header import num_bytes
from surgeon.checkpoint.index import ADAPTER_CONFIG, CONFIG, Checkpoint
from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage, Parent, dump_lineage, output_digests, versions
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.checkpoint.writer import Layout, Writer
from surgeon.errors import SurgeonError
from surgeon.ops.check import check
from surgeon.ops.describe import measured
from surgeon.ops.known import digests_of_shards, keep, known_tensors
from surgeon.ops.layout import layout_of
from surgeon.ops.memory import peak_rss_bytes
from surgeon.ops.plain import is_plain, plain_bytes
from surgeon.ops.plan import Copy, OutTensor, Plan
from surgeon.ops.result import Result
from surgeon.progress import SILENT, Progress

if TYPE_CHECKING:
    from surgeon.ops.compute import Computer

Job = tuple[int, Callable[[], None]]  # bytes, what writes them


def execute(
    plan: Plan, out: Path, *, threads: int | None = None, force: bool = False, progress: Progress = SILENT
) -> Result:
    """Carry out a checked plan: everything at `out`, or nothing. Raises SurgeonError with nothing left at `out`."""
    started = time.perf_counter()
    check_out(out, force)
    check(plan, out)
    inputs = {i.role: Checkpoint.open(i.path) for i in plan.inputs}
    threads = threads or min(os.cpu_count() or 1, 8)
    known = known_tensors(plan, inputs)
    with staged(out, force) as folder:
        writer, rounding = write_shards(plan, folder, inputs, threads, progress)
        _write_files(plan, folder, inputs)
        weights = digests_of_shards(folder, writer.layout, known, threads)
        digests = output_digests(folder, threads, {name: w.digest for name, w in weights.items()})
        (folder / LINEAGE_FILE).write_text(dump_lineage(lineage_of(plan, out, inputs, digests)), encoding="utf-8")
        verified = _verify(plan, folder)
        if plan.link:
            verified["linked"] = list(writer.linked)
            progress.say(f"{len(writer.linked)} of {len(weights)} shards are second names of the input's files")
        keep(folder, weights, writer.linked)
        if plan.restores:
            verified["original"] = Checkpoint.open(folder).digest == plan.restores
        linked = writer.layout.data_bytes(writer.linked)
    return Result(
        out=str(out),
        operation=plan.operation,
        tensors=len(plan.tensors),
        parameters=parameters(plan),
        bytes_written=plan.nbytes - linked,
        seconds=round(time.perf_counter() - started, 3),
        peak_rss_bytes=peak_rss_bytes(),
        plan_digest=plan.digest,
        verified=verified,
        found=measured(plan) | ({"rounding": rounding} if rounding else {}),
    )


def parameters(plan: Plan) -> int:
    """Stored elements; a tied head that is not stored is not counted twice."""
    return sum(t.nbytes // num_bytes(t.dtype, ()) for t in plan.tensors)


def write_shards(
    plan: Plan, folder: Path, inputs: Mapping[str, Checkpoint], threads: int, progress: Progress,
    layout: Layout | None = None,
) -> tuple[Writer, dict[str, Any]]:  # fmt: skip
    """The closed writer, and what the rounding let through of what was changed. layout: of shards alone, without an
    index, in place of the plan's."""
    beside = layout is None and any(name.endswith(".safetensors") for name in plan.binary)
    writer = Writer(folder, layout or layout_of(plan, inputs), index=beside, link=plan.link)
    if layout is not None:
        writer.has_index = False
    try:
        with progress.task("writing", plan.nbytes, "bytes") as advance, ThreadPoolExecutor(threads) as pool:

            def run(job: Job) -> None:
                job[1]()
                advance(job[0])

            computer = _computer(plan, writer, inputs)
            jobs = [pool.submit(run, job) for job in _jobs(plan, writer, inputs, computer)]
            done, pending = wait(jobs, return_when=FIRST_EXCEPTION)
            for waiting in pending:
                waiting.cancel()
            for finished in done:
                finished.result()
        writer.finish()
    finally:
        writer.close()
    return writer, computer.survival.report() if computer is not None else {}


def _computed(plan: Plan) -> list[OutTensor]:
    """What is neither copied nor plain, largest first."""
    found = [t for t in plan.tensors if not isinstance(t.source, Copy) and not is_plain(t)]
    return sorted(found, key=lambda t: -t.nbytes)


def _computer(plan: Plan, writer: Writer, inputs: Mapping[str, Checkpoint]) -> Computer | None:
    """torch is imported only where there is something to compute."""
    if not _computed(plan):
        return None
    from surgeon.ops.compute import Computer

    return Computer(plan, inputs, writer)


def _jobs(plan: Plan, writer: Writer, inputs: Mapping[str, Checkpoint], computer: Computer | None) -> list[Job]:
    """What is to be computed, then runs of copied tensors. Zeros need nothing: the files are there at full length and
    read as zero."""
    jobs: list[Job] = []
    if computer is not None:
        jobs += [(t.nbytes, partial(computer.write, t)) for t in _computed(plan)]
    copies = [
        (t.name, inputs[t.source.model].tensor(t.source.tensor)) for t in plan.tensors if isinstance(t.source, Copy)
    ]
    jobs += [(run.nbytes, partial(writer.copy_run, run)) for run in writer.runs(copies)]
    plain = [(t.name, raw) for t in plan.tensors if (raw := plain_bytes(t)) is not None]
    return jobs + [(len(raw), partial(writer.write, name, memoryview(raw))) for name, raw in plain]


def _write_files(plan: Plan, folder: Path, inputs: Mapping[str, Checkpoint]) -> None:
    name = ADAPTER_CONFIG if plan.kind == "adapter" else CONFIG
    (folder / name).write_text(dump_json(dict(plan.config)), encoding="utf-8")
    for carried, role in plan.carried.items():
        (folder / carried).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(inputs[role].path / carried, folder / carried)
    for written, text in plan.files.items():
        _put(folder / written, text.encode("utf-8"))
    for written, raw in plan.binary.items():
        _put(folder / written, raw)
    for attached, raw in plan.attachments.items():
        _put(folder / SURGEON_DIR / attached, raw)


def _put(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def lineage_of(plan: Plan, out: Path, inputs: Mapping[str, Checkpoint], digests: dict[str, str]) -> Lineage:
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
    for shard in sorted(p for p in folder.glob("*.safetensors") if p.name not in plan.binary):
        with safe_open(shard, framework="numpy") as held:
            names += list(held.keys())
    expected = sorted(t.name for t in plan.tensors)
    if sorted(names) != expected:
        raise SurgeonError("the written shards do not hold the planned tensors", str(folder), "report this")
    if plan.kind == "model":
        Checkpoint.open(folder)
    return {"reopened": True, "tensors": len(names)}
