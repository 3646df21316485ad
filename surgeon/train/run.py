"""`cpt`: from settings to a checkpoint with lineage."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from surgeon.checkpoint.commit import check_out, staged
from surgeon.data.tokens import specials
from surgeon.errors import SurgeonError
from surgeon.ops.memory import peak_rss_bytes
from surgeon.ops.result import Result
from surgeon.progress import SILENT, Progress
from surgeon.train import blocks, flash, kept, state
from surgeon.train.describe import describe_cpt as describe_cpt  # the other half of the operation
from surgeon.train.folder import write_folder
from surgeon.train.fork import Fork
from surgeon.train.hook import Hook
from surgeon.train.job import Job, prepare
from surgeon.train.lineage import OPERATION
from surgeon.train.loop import Loop
from surgeon.train.notes import notes
from surgeon.train.outcome import Outcome
from surgeon.train.outputs import check_outputs
from surgeon.train.parallel import world_of
from surgeon.train.reading import reading_note
from surgeon.train.settings import ROUNDING, CptSettings
from surgeon.train.stop import whole

# settings that do not decide the result, by which processes come together all the same
_TOGETHER = ("save_every", "keep_checkpoints", "eval_every", "eval_tokens", "checkpointing", "compile", "resume")
_FULL = 0.95  # below this share of tokens in its rows a run says so


@dataclass(frozen=True)
class CptResult(Result):
    """What was done; the JSON of `cpt`."""

    steps: int
    tokens: int
    tokens_per_second: float | None
    mfu: float | None
    final_loss: float | None
    eval: list[dict[str, Any]]


def run_cpt(
    settings: CptSettings, progress: Progress = SILENT, *, force: bool = False,
    inputs: Mapping[str, Any] | None = None, fork: Fork | None = None,
) -> CptResult:  # fmt: skip
    """Train and write the result to OUT: everything there, or nothing.

    While it runs, OUT.run beside OUT holds settings.json, metrics.jsonl and the newest state; a run that was killed
    goes on from there with resume=True and ends with the same bytes as one that was not. force: replace OUT once the
    new one is complete, and start anew where no resume is asked for. inputs: digests that a saved plan holds.
    With keep_checkpoints, OUT.run/checkpoints holds the newest checkpoints of the run and stays when it is done.
    fork: the point of another run to go on from, by the settings of the whole (see surgeon.train.anneal).
    Raises SurgeonError.
    """
    started = time.perf_counter()
    kept.check_keeping(settings)
    world, place = world_of(settings.device)
    progress = progress if world.is_main else SILENT
    with ExitStack() as held:
        held.callback(flash.restore)
        waiting = world.from_main(lambda: _take(settings, force, held))
        progress.say("reading the model and the corpora")
        job = prepare(settings, progress, world=world, place=place)
        job = job if fork is None else fork.joined(job)
        together = {name: getattr(settings, name) for name in _TOGETHER}
        world.check_alike(job.record | together | {"attention": (job.mode, flash.chosen())})
        check_outputs(job)
        _check_inputs(job, inputs)
        loop = Loop(job)  # here methods refuse what they cannot do: before anything is written
        waiting = world.from_main(lambda: _begin(job, waiting, fork, loop.hooks))
        begin = state.load(waiting, tensors=world.size == 1) if waiting else None
        if begin:
            progress.say(f"going on from step {begin.step} of {job.shape.steps}")
        if note := reading_note(job.tokenizer, job.ref.path):
            progress.say(note)
        if specials(job.tokenizer).end is None:
            progress.say("the tokenizer has no end token: nothing ends a document, and no end is learned")
        for note in notes(job.chosen, loop.run_view):
            progress.say(note)
        trained = sum(job.data.mixture.tokens(job.shape.steps))
        if trained < _FULL * job.shape.tokens:
            progress.say(
                f"the rows are {trained / job.shape.tokens:.0%} full: {trained:,.0f} tokens are trained, and the rest "
                f"of {job.shape.tokens:,} is padding"
            )
        if job.mode == "rows":
            progress.say("this architecture cannot keep packed documents apart: training with a document a row")
        if job.mode == "segments" and (kernel := flash.note()):
            progress.say(kernel)
        if job.mode == "mask" and job.device.type == "cuda":
            progress.say(
                "documents are kept apart by masks: the kernel for lengths does not serve this model, and it "
                "would be faster"
            )
        try:
            with blocks.compiling():
                outcome = loop.run(begin, progress)
            values = world.values(job.model) if world.size > 1 else None
            result = world.from_main(lambda: _commit(job, outcome, started, force, values))
        except KeyboardInterrupt:
            progress.say(_left(settings.run_dir))
            raise
    world.close()
    return result


def _left(run_dir: Path) -> str:
    """What a person can do with a run that was interrupted or told to stop."""
    newest = state.latest(run_dir)
    if not state.is_begun(run_dir):
        return "the output is complete"
    if newest is None:
        return "the run was broken off before its first state was saved: it begins anew"
    return f"the run was broken off, and {newest} is kept: --resume goes on with it"


def _take(settings: CptSettings, force: bool, held: ExitStack) -> Path | None:
    """Hold the run's folder (until `held` ends); gives the state to go on from."""
    run_dir = settings.run_dir
    check_out(settings.out_path, force)
    held.enter_context(state.owned(run_dir))
    check_out(settings.out_path, force)  # again: the run that held the folder may have ended just now
    waiting = state.latest(run_dir)
    if waiting and not settings.resume and not force:
        raise SurgeonError(
            "a run to this output was broken off, and its state is kept",
            str(run_dir),
            "--resume goes on with it, --force starts anew",
        )
    if not waiting and not force and not (settings.resume and state.is_begun(run_dir)):
        kept.check_free(run_dir)
    return waiting if settings.resume else None


def _begin(job: Job, waiting: Path | None, fork: Fork | None, hooks: Sequence[Hook]) -> Path | None:
    """Check that the run is the one that was broken off, or forget what was there and write down what begins. Gives
    the state to go on from."""
    run_dir = job.settings.run_dir
    if waiting:
        by_micro_batch = {"micro_batch"} if any(hook.between_micro_batches for hook in hooks) else set()
        state.check_settings(run_dir, job.record, ROUNDING - by_micro_batch)
        return waiting
    first = None if fork is None else fork.begin(job, hooks)  # what it refuses, it refuses before anything is written
    state.clear(run_dir)
    kept.clear(run_dir)
    state.record_settings(run_dir, job.record)
    if first is not None:
        state.save(run_dir, first)  # a state of its own from the first step on, for --resume
    return state.latest(run_dir)


def _check_inputs(job: Job, expected: Mapping[str, Any] | None) -> None:
    changed = [key for key in expected or {} if job.inputs.get(key) != (expected or {})[key]]
    if changed:
        raise SurgeonError(
            f"the inputs are no longer those that the plan was made for: {', '.join(changed)}",
            job.settings.out,
            "plan again with --plan",
        )


def _commit(job: Job, outcome: Outcome, started: float, force: bool, values: Mapping[str, Tensor] | None) -> CptResult:
    out, run_dir = job.settings.out_path, job.settings.run_dir
    with staged(out, force) as folder:
        written = write_folder(folder, out, job, job.shape.steps, outcome, run_dir / state.METRICS, values)
    if not job.settings.keep_state:
        with whole():  # the output is complete: an interrupt must not leave half of what it no longer needs
            state.clear(run_dir)
    return CptResult(
        out=str(out),
        operation=OPERATION,
        tensors=written.tensors,
        parameters=written.parameters,
        bytes_written=written.nbytes,
        seconds=round(time.perf_counter() - started, 3),
        peak_rss_bytes=peak_rss_bytes(),
        plan_digest=job.digest,
        verified=written.verified,
        steps=job.shape.steps,
        tokens=outcome.tokens,
        tokens_per_second=outcome.tokens_per_second,
        mfu=outcome.mfu,
        final_loss=outcome.final_loss,
        eval=outcome.evals,
        found={"checkpoints": list(map(str, kept.kept(run_dir)))} if job.settings.keep_checkpoints else {},
    )
