"""`cpt`: from settings to a checkpoint with lineage."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.checkpoint.commit import check_apart, check_out, staged
from surgeon.checkpoint.header import StoredTensor, read_header
from surgeon.checkpoint.index import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, SINGLE, Checkpoint
from surgeon.checkpoint.lineage import (
    LINEAGE_FILE,
    Lineage,
    Parent,
    dump_lineage,
    output_digests,
    read_lineage,
    versions,
)
from surgeon.checkpoint.sidecars import SURGEON_DIR, metrics_name, sidecars
from surgeon.errors import SurgeonError
from surgeon.ops.memory import peak_rss_bytes
from surgeon.ops.result import Result
from surgeon.progress import SILENT, Progress
from surgeon.train import export, state
from surgeon.train.corpora import corpora
from surgeon.train.describe import describe_cpt as describe_cpt  # the other half of the operation
from surgeon.train.job import Job, prepare
from surgeon.train.loop import Loop, Outcome
from surgeon.train.settings import CptSettings

OPERATION = "cpt"


@dataclass(frozen=True)
class CptResult(Result):
    """What was done; the JSON of `cpt`."""

    steps: int
    tokens: int
    tokens_per_second: float
    mfu: float | None
    final_loss: float | None
    eval: list[dict[str, Any]]


def run_cpt(
    settings: CptSettings, progress: Progress = SILENT, *, force: bool = False, inputs: Mapping[str, Any] | None = None
) -> CptResult:
    """Train and write the result to OUT: everything there, or nothing.

    While it runs, OUT.run beside OUT holds settings.json, metrics.jsonl and the newest state; a run that was killed
    goes on from there with resume=True and ends with the same bytes as one that was not. force: replace OUT once the
    new one is complete, and start anew where no resume is asked for. inputs: digests that a saved plan holds.
    Raises SurgeonError.
    """
    started = time.perf_counter()
    check_out(settings.out_path, force)
    run_dir = settings.run_dir
    with state.owned(run_dir):
        check_out(settings.out_path, force)  # again: the run that held the folder may have ended just now
        waiting = state.latest(run_dir)
        if waiting and not settings.resume and not force:
            raise SurgeonError(
                "a run to this output was broken off, and its state is kept",
                str(run_dir),
                "--resume goes on with it, --force starts anew",
            )
        progress.say("reading the model and the corpora")
        job = prepare(settings)
        _check_apart(job)
        _check_inputs(job, inputs)
        begin = None
        if waiting and settings.resume:
            state.check_settings(run_dir, job.record)
            begin = state.load(waiting)
            progress.say(f"going on from step {begin.step} of {job.shape.steps}")
        else:
            state.clear(run_dir)
            state.record_settings(run_dir, job.record)
        if job.mode == "rows":
            progress.say("this architecture cannot keep packed documents apart: training with a document a row")
        outcome = Loop(job).run(begin, progress)
        result = _commit(job, outcome, started, force)
        if not settings.keep_state:
            state.clear(run_dir)
    return result


def _check_inputs(job: Job, expected: Mapping[str, Any] | None) -> None:
    changed = [key for key in expected or {} if job.inputs.get(key) != (expected or {})[key]]
    if changed:
        raise SurgeonError(
            f"the inputs are no longer those that the plan was made for: {', '.join(changed)}",
            job.settings.out,
            "plan again with --plan",
        )


def _check_apart(job: Job) -> None:
    """No output (with --force) over a model or a corpus that is read."""
    out = job.settings.out_path
    check_apart(out, [job.ref.path, *([job.adapter] if job.adapter else [])])
    for corpus, _ in corpora(job.settings):
        if corpus.path.resolve().is_relative_to(out.resolve()):
            raise SurgeonError(
                "the output holds a corpus that is read", f"{out} and {corpus.path}", "choose another path"
            )


def _commit(job: Job, outcome: Outcome, started: float, force: bool) -> CptResult:
    stored, trained, single = _results(job)
    out = job.settings.out_path
    with staged(out, force) as folder:
        written = export.write_tensors(folder, stored, trained, single)
        source = job.adapter or job.ref.path
        for name in (ADAPTER_CONFIG if job.adapter else CONFIG, *sidecars(source)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
        before = _lineages(job)
        (folder / SURGEON_DIR).mkdir(exist_ok=True)
        shutil.copyfile(job.settings.run_dir / state.METRICS, folder / SURGEON_DIR / metrics_name(job.digest))
        lineage = _lineage(job, outcome, out, before, output_digests(folder))
        (folder / LINEAGE_FILE).write_text(dump_lineage(lineage), encoding="utf-8")
        verified = _verify(folder, stored, trained)
    return CptResult(
        out=str(out),
        operation=OPERATION,
        tensors=len(stored),
        parameters=sum(_elements(t) for t in stored.values()),
        bytes_written=written,
        seconds=round(time.perf_counter() - started, 3),
        peak_rss_bytes=peak_rss_bytes(),
        plan_digest=job.digest,
        verified=verified,
        steps=job.shape.steps,
        tokens=outcome.tokens,
        tokens_per_second=outcome.tokens_per_second,
        mfu=outcome.mfu,
        final_loss=outcome.final_loss,
        eval=outcome.evals,
    )


def _results(job: Job) -> tuple[dict[str, StoredTensor], dict[str, Any], str]:
    """The tensors of the output as they were stored in the input, the trained ones, the name of a single shard."""
    if job.adapter is None:
        trained = export.trained_tensors(job.model, job.checkpoint, job.trainable.parameters)
        return dict(job.checkpoint.tensors), trained, SINGLE
    stored = dict(sorted(read_header(job.adapter / ADAPTER_WEIGHTS)[0].items()))
    return stored, export.adapter_tensors(job.model, stored, job.adapter), ADAPTER_WEIGHTS


def _lineages(job: Job) -> list[Lineage | None]:
    """Of the parents in order; the last one is what was trained."""
    own = [job.checkpoint.lineage]
    return own if job.adapter is None else [*own, read_lineage(job.adapter)]


def _lineage(job: Job, outcome: Outcome, out: Path, before: list[Lineage | None], files: dict[str, str]) -> Lineage:
    places = [("model", job.ref.name, job.ref.path, job.checkpoint.digest)]
    if job.adapter is not None and job.ref.adapter is not None:
        places.append(("adapter", job.ref.adapter.name, job.adapter, job.record["adapter"]))
    parents = [
        Parent(role=r, name=n, path=os.path.relpath(p.resolve(), out.absolute()), digest=d, lineage=lineage)
        for (r, n, p, d), lineage in zip(places, before, strict=True)
    ]
    settings = {k: v for k, v in job.record.items() if k not in ("model", "adapter", "data", "replay", "seed")}
    return Lineage(
        operation=OPERATION,
        kind="training",
        settings=settings,
        seed=job.settings.seed,
        plan=job.digest,
        parents=parents,
        adapter=before[-1].adapter if job.adapter is not None and before[-1] else None,
        training={
            "steps": job.shape.steps,
            "tokens": outcome.tokens,
            "trainable_parameters": job.trainable.num_parameters,
            "packing": job.mode,
            "data": job.data.as_json(job.shape.steps),
            "final_loss": outcome.final_loss,
            "eval": outcome.evals,
        },
        versions=versions(),
        files=files,
    )


def _verify(folder: Path, stored: dict[str, StoredTensor], trained: dict[str, Any]) -> dict[str, Any]:
    """Read the headers back: names, types and shapes are those of the input."""
    if (folder / CONFIG).is_file():
        held = Checkpoint.open(folder).tensors
    else:
        held = read_header(folder / ADAPTER_WEIGHTS)[0]
    same = {n: (t.dtype, t.shape) for n, t in held.items()} == {n: (t.dtype, t.shape) for n, t in stored.items()}
    if not same:
        raise SurgeonError("the written tensors are not those of the input", str(folder), "report this as a bug")
    return {"names": True, "trained_tensors": len(trained), "copied_tensors": len(stored) - len(trained)}


def _elements(tensor: StoredTensor) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count
