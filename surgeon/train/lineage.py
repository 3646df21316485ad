"""What surgeon.json says of a trained model, at the end of its run or at one of its save points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgeon.checkpoint.lineage import Lineage, read_lineage, versions
from surgeon.checkpoint.parents import parent_of
from surgeon.train import flash
from surgeon.train.job import Job
from surgeon.train.outcome import Outcome

OPERATION = "cpt"


def training_lineage(job: Job, step: int, outcome: Outcome, out: Path, files: dict[str, str]) -> Lineage:
    """The lineage of the model after `step` steps, to lie at `out`; files: the digests of its files.

    Before the last step it also says how many steps the run is of.
    """
    before = _lineages(job)
    places = [("model", job.ref.name, job.ref.path, job.checkpoint.digest)]
    if job.adapter is not None and job.ref.adapter is not None:
        places.append(("adapter", job.ref.adapter.name, job.adapter, job.record["adapter"]))
    parents = [
        parent_of(role, name, path, digest, lineage, out)
        for (role, name, path, digest), lineage in zip(places, before, strict=True)
    ]
    settings = {k: v for k, v in job.record.items() if k not in ("model", "adapter", "data", "replay", "seed")}
    training: dict[str, Any] = {
        "steps": step,
        "tokens": outcome.tokens,
        "trainable_parameters": job.trainable.num_parameters,
        "packing": job.mode,
        "data": job.data.as_json(step),
        "final_loss": outcome.final_loss,
        "eval": outcome.evals,
    }
    training |= {"of_steps": job.shape.steps} if step < job.shape.steps else {}
    training |= {"attention_kernel": kernel} if (kernel := flash.chosen()) else {}
    return Lineage(
        operation=OPERATION,
        kind="training",
        settings=settings,
        seed=job.settings.seed,
        plan=job.digest,
        parents=parents,
        adapter=before[-1].adapter if job.adapter is not None and before[-1] else None,
        training=training,
        versions=versions(),
        files=files,
    )


def _lineages(job: Job) -> list[Lineage | None]:
    """Of the parents in order; the last one is what was trained."""
    own = [job.checkpoint.lineage]
    return own if job.adapter is None else [*own, read_lineage(job.adapter)]
