"""A trained model as a complete folder: weights, configuration, the files beside them, lineage."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from surgeon.card.write import write_card
from surgeon.checkpoint.header import StoredTensor, read_header
from surgeon.checkpoint.index import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, SINGLE, Checkpoint
from surgeon.checkpoint.lineage import LINEAGE_FILE, dump_lineage, output_digests
from surgeon.checkpoint.sidecars import SURGEON_DIR, metrics_name, sidecars
from surgeon.errors import SurgeonError
from surgeon.train import export
from surgeon.train.job import Job
from surgeon.train.lineage import training_lineage
from surgeon.train.outcome import Outcome


@dataclass(frozen=True)
class Written:
    """tensors, parameters, nbytes: of all tensors. verified: what was read back."""

    tensors: int
    parameters: int
    nbytes: int
    verified: dict[str, Any]


def write_folder(
    folder: Path,
    out: Path,
    job: Job,
    step: int,
    outcome: Outcome,
    metrics: Path | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> Written:
    """The model as it is after `step` steps, written into the empty `folder`, which is to become `out`.

    Weights are in the stored types of the model that was trained. metrics: the run's own, to go along; they hold
    speeds, so a folder without them has the same bytes every time. values: of all parameters by name, where the model
    is divided among processes. Raises SurgeonError where the tensors that were
    written are not those of the input.
    """
    stored, trained, single = _results(job, values)
    index = {} if job.adapter else job.checkpoint.index_metadata  # the tensors are the input's, so its counts hold
    nbytes = export.write_tensors(folder, stored, trained, single, index)
    source = job.adapter or job.ref.path
    for name in (ADAPTER_CONFIG if job.adapter else CONFIG, *sidecars(source)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    if metrics is not None:
        (folder / SURGEON_DIR).mkdir(exist_ok=True)
        shutil.copyfile(metrics, folder / SURGEON_DIR / metrics_name(job.digest))
    lineage = training_lineage(job, step, outcome, out, output_digests(folder))
    (folder / LINEAGE_FILE).write_text(dump_lineage(lineage), encoding="utf-8")
    write_card(folder, out, lineage)
    parameters = sum(math.prod(t.shape) for t in stored.values())
    return Written(len(stored), parameters, nbytes, _verify(folder, stored, trained))


def _results(job: Job, values: Mapping[str, Tensor] | None) -> tuple[dict[str, StoredTensor], dict[str, Any], str]:
    """The tensors of the output as they were stored in the input, the trained ones, the name of a single shard."""
    if job.adapter is None:
        trained = export.trained_tensors(job.model, job.checkpoint, job.trainable.parameters, values)
        return dict(job.checkpoint.tensors), trained, SINGLE
    stored = dict(sorted(read_header(job.adapter / ADAPTER_WEIGHTS)[0].items()))
    return stored, export.adapter_tensors(job.model, stored, job.adapter, values), ADAPTER_WEIGHTS


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
