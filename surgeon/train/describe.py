"""What a training run would do, for --dry-run."""

from __future__ import annotations

from typing import Any

from surgeon.train.flops import flops_per_token
from surgeon.train.footprint import memory_bytes
from surgeon.train.fork import Fork
from surgeon.train.job import Job, prepare
from surgeon.train.kept import check_keeping, step_path
from surgeon.train.outputs import check_outputs
from surgeon.train.settings import CptSettings
from surgeon.train.trainable import Trainable


def describe_cpt(settings: CptSettings, fork: Fork | None = None) -> dict[str, Any]:
    """Plain data: sizes, corpora, what is trained and what it costs. Reads the inputs, writes nothing.

    fork: the point of another run where this one begins; the sizes are those of the whole.
    """
    check_keeping(settings)
    job = prepare(settings, dry=True)
    if fork is not None:
        job = fork.joined(job)
    check_outputs(job)
    shape = job.shape
    flops = _flops(job, job.trainable)
    full = _flops(job, Trainable(dict(job.model.named_parameters())))
    return (
        {
            "operation": "cpt",
            "out": settings.out,
            "train": settings.train,
            "parameters": sum(p.numel() for p in job.model.parameters()),
            "trainable_parameters": job.trainable.num_parameters,
            "trainable_tensors": list(job.trainable.parameters),
            "lowest_trained_block": job.trainable.lowest_block,
            "seq_len": shape.seq_len,
            "batch_tokens": shape.rows * shape.seq_len,
            "micro_batch": shape.micro_batch,
            "steps": shape.steps,
            "tokens": shape.tokens,
            "data": job.data.as_json(shape.steps),
            "flops_per_token": flops,
            "flops_per_token_full": full,
            "flops": flops * shape.tokens,
            "memory_bytes": memory_bytes(job, checkpointed=settings.checkpointing == "blocks"),
            "inputs": job.inputs,
            "plan_digest": job.digest,
        }
        | _stages(job)
        | _kept(job)
    )


def _flops(job: Job, trainable: Trainable) -> float:
    """Of a token, in the mean over the steps, which all have as many tokens where the length of rows changes."""
    spans = job.shape.spans
    steps = [span.stop - begin for begin, span in zip([0, *(s.stop for s in spans)], spans, strict=False)]
    found = [flops_per_token(job.model, trainable, span.seq_len) for span in spans]
    return sum(n * f for n, f in zip(steps, found, strict=True)) / job.shape.steps


def _stages(job: Job) -> dict[str, Any]:
    """Those of a length curriculum: up to which step rows of which length."""
    shape = job.shape
    if not shape.stages:
        return {}
    return {
        "lengths": [
            {"seq_len": s.seq_len, "rows": s.rows, "micro_batch": s.micro_batch, "until_step": s.stop}
            for s in shape.spans
        ]
    }


def _kept(job: Job) -> dict[str, Any]:
    """The checkpoints that will be there at the end, and their size; one more is there while one is written."""
    settings, steps = job.settings, job.shape.steps
    if not settings.keep_checkpoints:
        return {}
    saved = [*range(settings.saved_every(steps), steps, settings.saved_every(steps)), steps]
    paths = [str(step_path(settings.run_dir, step)) for step in saved[-settings.keep_checkpoints :]]
    return {"checkpoints": paths, "checkpoint_bytes": len(paths) * job.checkpoint.num_bytes}
