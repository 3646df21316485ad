"""Which training wrote which metrics: surgeon/metrics-N.jsonl is of the N-th cpt in a checkpoint's ancestry.

A checkpoint carries the metrics of its ancestors along, and a merged one those of one of its parents only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.report.curves import Training, metrics_files, read_evals, read_training
from surgeon.report.run_file import StageRecord

CPT = "cpt"


def training_number(lineage: Lineage) -> int:
    """The N of a cpt: one more than the cpts behind what it trained (its last parent: the model or the adapter)."""
    trained = lineage.parents[-1].lineage if lineage.parents else None
    return 1 + sum(record.operation == CPT for record in (trained.chain() if trained else ()))


def training_of_stage(stage: StageRecord, out: Path | None, lineage: Lineage | None, where: str) -> Training:
    """The training of a cpt stage, without a curve where its output or its metrics are gone."""
    recorded = (lineage.training if lineage else None) or {}
    evals = read_evals(stage.result.get("eval", recorded.get("eval")), where)
    path = None
    if out is not None and lineage is not None:
        path = out / SURGEON_DIR / f"metrics-{training_number(lineage)}.jsonl"
    return read_training(stage.name, path if path and path.is_file() else None, evals, stage.settings)


def trainings_of_checkpoint(folder: Path, lineage: Lineage) -> list[Training]:
    """Every metrics file with the cpt that wrote it, where just one of the ancestors can have."""
    known = list(_cpts(lineage))
    found = []
    for path in metrics_files(folder):
        training = read_training(path.stem, path)
        owners = [record for record in known if f"metrics-{training_number(record)}" == path.stem
                  and _ends_as(training, record)]  # fmt: skip
        if owners and all(owner == owners[0] for owner in owners):
            recorded = owners[0].training or {}
            evals = read_evals(recorded.get("eval"), f"{folder / LINEAGE_FILE}: training")
            training = read_training(f"{CPT} {training_number(owners[0])}", path, evals, owners[0].settings)
        found.append(training)
    return found


def _cpts(lineage: Lineage) -> Iterator[Lineage]:
    """All trainings in the tree of a lineage, parents in order."""
    if lineage.operation == CPT:
        yield lineage
    for parent in lineage.parents:
        if parent.lineage is not None:
            yield from _cpts(parent.lineage)


def _ends_as(training: Training, lineage: Lineage) -> bool:
    """Is the last recorded step the one that the lineage ends with, in all that it says of it?"""
    recorded, last = lineage.training or {}, training.steps[-1] if training.steps else None
    ends = {"steps": last and last.step, "tokens": last and last.tokens, "final_loss": last and last.loss}
    return all(recorded[key] == value for key, value in ends.items() if key in recorded)
