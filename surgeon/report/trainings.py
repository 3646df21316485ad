"""Which training wrote which metrics: the file under surgeon/ is named after the digest in the lineage.

A checkpoint carries the metrics of its ancestors along, and a merged one those of one of its parents only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage
from surgeon.checkpoint.sidecars import SURGEON_DIR, metrics_name
from surgeon.report.curves import Training, metrics_files, read_evals, read_training
from surgeon.report.run_file import StageRecord

CPT = "cpt"


def training_of_stage(stage: StageRecord, out: Path | None, lineage: Lineage | None, where: str) -> Training:
    """The training of a cpt stage, without a curve where its output or its metrics are gone."""
    recorded = (lineage.training if lineage else None) or {}
    evals = read_evals(stage.result.get("eval", recorded.get("eval")), where)
    path = None
    if out is not None and lineage is not None:
        path = out / SURGEON_DIR / metrics_name(lineage.plan)
    return read_training(stage.name, path if path and path.is_file() else None, evals, stage.settings)


def trainings_of_checkpoint(folder: Path, lineage: Lineage) -> list[Training]:
    """Every metrics file, first those of known trainings, the oldest first."""
    files = {path.name: path for path in metrics_files(folder)}
    found: list[Training] = []
    for record in reversed(list(_cpts(lineage))):
        path = files.pop(metrics_name(record.plan), None)
        if path is not None:
            evals = read_evals((record.training or {}).get("eval"), f"{folder / LINEAGE_FILE}: training")
            found.append(read_training(f"{CPT} {len(found) + 1}", path, evals, record.settings))
    return found + [read_training(path.stem, path) for path in files.values()]


def _cpts(lineage: Lineage) -> Iterator[Lineage]:
    """All trainings in the tree of a lineage, parents in order."""
    if lineage.operation == CPT:
        yield lineage
    for parent in lineage.parents:
        if parent.lineage is not None:
            yield from _cpts(parent.lineage)
