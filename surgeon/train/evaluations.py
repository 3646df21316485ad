"""The corpora that a run is evaluated on, on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from surgeon.train.job import Job
from surgeon.train.score import score, window_length


def evaluated(job: Job, step: int, between: Callable[[], None]) -> list[dict[str, Any]]:
    """{step, name, nats_per_token, bits_per_byte} of every corpus of --eval under the model as it is; all processes
    score all of them, because every forward pass is a common one. between: called before each of these; what it raises
    leaves the model as it was."""
    found = []
    context = window_length(job.model, None)
    try:
        with job.autocast():
            for name, items in job.evals:
                result = score(job.model, items, context, between)
                numbers = {"nats_per_token": result.nats_per_token, "bits_per_byte": result.bits_per_byte}
                found.append({"step": step, "name": name} | numbers)
    finally:
        job.world.reshard(job.model)
    return found
