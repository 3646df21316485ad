"""A checkpoint on the way of a run: a complete model beside its state (see surgeon.train.kept)."""

from __future__ import annotations

from surgeon.checkpoint.commit import staged
from surgeon.train import kept
from surgeon.train.folder import write_folder
from surgeon.train.job import Job
from surgeon.train.outcome import Outcome
from surgeon.train.parallel import World


def keep(job: Job, world: World, step: int, outcome: Outcome) -> None:
    """Write the model as it is after `step` steps, and remove all but the newest that are to be kept; at other steps
    than those of --save-every and the last one, nothing: a run that was stopped keeps what one that was not keeps. All
    processes come here, since they share the model; the main one writes."""
    run_dir, count, steps = job.settings.run_dir, job.settings.keep_checkpoints, job.shape.steps
    if not count or (step < steps and step % job.settings.saved_every(steps)):
        return
    values = world.values(job.model) if world.size > 1 else None
    if world.is_main:
        path = kept.step_path(run_dir, step)
        with staged(path, force=True) as folder:
            write_folder(folder, path, job, step, outcome, values=values)
        kept.prune(run_dir, count)
