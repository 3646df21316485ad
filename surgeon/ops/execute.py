"""The executor: the only code of surgery that touches tensor bytes; bounded memory, same bytes for any threads."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.arch.family import family_of_names
from surgeon.card.write import write_card
from surgeon.checkpoint.commit import check_no_run, check_out, staged
from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.header import num_bytes
from surgeon.checkpoint.index import ADAPTER_CONFIG, CONFIG, Checkpoint
from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage, dump_lineage, output_digests, versions
from surgeon.checkpoint.parents import parent_of
from surgeon.checkpoint.sidecars import SURGEON_DIR, vectors_name
from surgeon.checkpoint.unread import Unread
from surgeon.checkpoint.writer import Layout, Writer
from surgeon.errors import SurgeonError
from surgeon.ops.check import check
from surgeon.ops.describe import measured
from surgeon.ops.done import Done, by_tensor, computed_digests
from surgeon.ops.jobs import Job, Jobs, computed
from surgeon.ops.known import digests_of_shards, keep, known_tensors
from surgeon.ops.layout import layout_of
from surgeon.ops.memory import peak_rss_bytes
from surgeon.ops.plan import Plan, leaves
from surgeon.ops.result import Result
from surgeon.ops.resume import Progressed, still_there
from surgeon.ops.survival import survival
from surgeon.progress import SILENT, Progress


def execute(
    plan: Plan, out: Path, *, threads: int | None = None, force: bool = False, memory: int | None = None,
    progress: Progress = SILENT,
) -> Result:  # fmt: skip
    """Carry out a checked plan: everything at `out`, or nothing. Raises SurgeonError with nothing left at `out`.

    memory: bytes that computed tensors may take at a time (by default half of what is free). Where it is interrupted,
    what was computed stays beside `out`, and the same plan goes on from there.
    """
    started = time.perf_counter()
    check_out(out, force)
    check_no_run(out)
    check(plan, out, memory)
    inputs = {i.role: Checkpoint.open(i.path) for i in plan.inputs}
    threads = threads or min(os.cpu_count() or 1, 8)
    computes = bool(computed(plan))
    # copies begin before the plan's digest is known: it is that of what they read, and they do not go on after a kill
    unread = None if computes else Unread([shard for held in inputs.values() for shard in held.shards])
    known = known_tensors(plan, inputs)
    with staged(out, force, plan.digest if computes else None) as folder:
        progressed = Progressed(folder)
        written = write_shards(plan, folder, inputs, threads, progress, None, memory, progressed, unread)
        writer = written.writer
        if unread is not None:
            unread.remember()
            known |= known_tensors(plan, inputs)
        found = written.measured(plan)
        _write_files(plan, folder, inputs)
        if "vectors" in found:
            _put(folder / SURGEON_DIR / vectors_name(plan.digest), dump_json(found["vectors"]).encode())
        weights = digests_of_shards(folder, writer.layout, known | written.digests(plan), threads)
        progressed.clear()
        digests = output_digests(folder, threads, {name: w.digest for name, w in weights.items()})
        lineage = lineage_of(plan, out, inputs, digests)
        (folder / LINEAGE_FILE).write_text(dump_lineage(lineage), encoding="utf-8")
        original = bool(plan.restores) and Checkpoint.open(folder).digest == plan.restores
        if not original:  # what was there before is no new model, and the card of that one is not at hand
            write_card(folder, out, lineage)
        verified = _verify(plan, folder)
        if plan.link:
            verified["linked"] = list(writer.linked)
            progress.say(f"{len(writer.linked)} of {len(weights)} shards are second names of the input's files")
        keep(folder, weights, writer.linked)
        if plan.restores:
            verified["original"] = original
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
        found=measured(plan) | found,
    )


def parameters(plan: Plan) -> int:
    """Stored elements; a tied head that is not stored is not counted twice."""
    return sum(t.nbytes // num_bytes(t.dtype, ()) for t in plan.tensors)


@dataclass(frozen=True)
class Written:
    """A closed writer, and what was computed into it."""

    writer: Writer
    done: Sequence[Done]

    def digests(self, plan: Plan) -> dict[str, str]:
        """Of the computed tensors, as far as all of their bytes passed through this process."""
        return computed_digests(self.done, {t.name: t.nbytes for t in plan.tensors})

    def measured(self, plan: Plan) -> dict[str, Any]:
        """What was measured of changes: {"rounding": ..., "vectors": ...}, empty where nothing was changed.
        vectors, copied: by model the tensors that hold its own values, combined with none: no delta was measured."""
        tensors = by_tensor(self.done)
        found: dict[str, Any] = {}
        rounding = survival({name: sums for name, (sums, _) in tensors.items()})
        if rounding:
            found["rounding"] = rounding
        compared = {name: entry for name, entry in tensors.items() if entry[1]}
        if compared:
            from surgeon.ops.diagnosis import Diagnosis

            roles = [i.role for i in plan.inputs if any(i.role in models for _, models in compared.values())]
            family = family_of_names(plan.config, [t.name for t in plan.tensors])
            diagnosis = Diagnosis(family, roles)
            for name, (sums, models) in compared.items():
                diagnosis.add(name, sums, models)
            found["vectors"] = diagnosis.report({i.role: i.name or i.role for i in plan.inputs})
            combined = {t.name for t in computed(plan)}
            whole = [{leaf.model for leaf in leaves(t.source)} for t in plan.tensors if t.name not in combined]
            found["vectors"]["copied"] = [sum(role in held for held in whole) for role in roles]
        return found


def write_shards(
    plan: Plan, folder: Path, inputs: Mapping[str, Checkpoint], threads: int, progress: Progress,
    layout: Layout | None = None, memory: int | None = None, progressed: Progressed | None = None,
    unread: Unread | None = None,
) -> Written:  # fmt: skip
    """The shards of a plan in a folder. layout: of shards alone, without an index, in place of the plan's.
    progressed: the record of the folder; what it tells of and still is there is not done again.
    unread: what is read for its digest meanwhile."""
    beside = layout is None and (bool(plan.shard_names) or any(n.endswith(".safetensors") for n in plan.binary))
    before = progressed.read() if progressed is not None else []
    writer = Writer(folder, layout or layout_of(plan, inputs), index=beside, link=plan.link, resume=bool(before))
    if layout is not None:
        writer.has_index = False
    done: list[Done] = []
    try:
        done += still_there(before, writer, {t.name: t.nbytes for t in plan.tensors})
        if before:
            progress.say(f"going on with an output that was interrupted: {len(done)} parts of it are there")
        with (
            closing(Jobs(plan, writer, inputs, memory, done)) as to_do,
            progress.task("writing", plan.nbytes, "bytes") as advance,
            ThreadPoolExecutor(threads) as pool,
            ThreadPoolExecutor(threads) as readers,
        ):

            def run(job: Job) -> None:
                finished = job[1]()
                if finished is not None:
                    done.append(finished)
                    if progressed is not None and finished.leaves:
                        progressed.add(finished)
                advance(job[0])

            jobs = [pool.submit(run, job) for job in to_do.all()]
            if unread is not None:  # threads of their own: those that copy wait for the disk
                jobs += [readers.submit(read) for read in unread.jobs([writer.layout.whole[s] for s in writer.linked])]
            try:
                finished, pending = wait(jobs, return_when=FIRST_EXCEPTION)
            except BaseException:  # an interrupt: what has not begun is not begun
                for workers in (pool, readers):
                    workers.shutdown(wait=False, cancel_futures=True)
                raise
            for waiting in pending:
                waiting.cancel()
            for job in finished:
                job.result()
        writer.finish()
    finally:
        writer.close()
    return Written(writer, done)


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
        parent_of(i.role, i.name, i.path, i.digest, plan.told.get(i.role, inputs[i.role].lineage), out)
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
