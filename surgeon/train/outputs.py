"""Where a run writes, held against what it reads."""

from __future__ import annotations

from surgeon.checkpoint.commit import check_apart
from surgeon.errors import SurgeonError
from surgeon.train.corpora import corpora
from surgeon.train.early import evals
from surgeon.train.job import Job
from surgeon.train.probes import paths


def check_outputs(job: Job) -> None:
    """No output (with --force) over a model or a corpus that is read. Raises SurgeonError."""
    out = job.settings.out_path
    models = [job.ref.path, *([job.adapter] if job.adapter else []), *([job.other.ref.path] if job.other else [])]
    check_apart(out, models)
    check_apart(job.settings.run_dir, models)  # a checkpoint that an earlier run kept there
    named = [*(corpus for corpus, _ in corpora(job.settings)), *evals(job.settings)]
    for path in [corpus.path for corpus in named if corpus.hub is None] + paths(job.chosen):
        if path.resolve().is_relative_to(out.resolve()):
            raise SurgeonError("the output holds a corpus that is read", f"{out} and {path}", "choose another path")
