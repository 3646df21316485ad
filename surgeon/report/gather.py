"""What a report says, gathered from a run's folder or from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgeon.checkpoint.lineage import LINEAGE_FILE, BlockMap, Lineage, read_lineage
from surgeon.errors import SurgeonError
from surgeon.report.block_map import block_map_json
from surgeon.report.curves import Training
from surgeon.report.deltas import Deltas, deltas_of, described
from surgeon.report.run_file import RUN_FILE, RunRecord, StageRecord, read_run
from surgeon.report.table import EvaluateResult, Row, evaluation_table, read_evaluation
from surgeon.report.tasks import TaskTable, task_table
from surgeon.report.tokens import NewTokens, new_tokens
from surgeon.report.trainings import CPT, training_of_stage, trainings_of_checkpoint
from surgeon.report.vocabulary import Vocabulary, of_lineage
from surgeon.search.record import SearchRecord, search_json

FORMAT = 1


@dataclass(frozen=True)
class Evaluation:
    """The table of one evaluation, and all its numbers."""

    title: str
    rows: list[Row]
    result: EvaluateResult

    @property
    def tasks(self) -> TaskTable:
        return task_table(self.result, [row.model for row in self.rows])


@dataclass(frozen=True)
class Blocks:
    """The block map that one step made."""

    title: str
    map: BlockMap


@dataclass(frozen=True)
class Merge:
    """What one merge measured of its deltas."""

    title: str
    deltas: Deltas


@dataclass(frozen=True)
class Tokens:
    """The vocabulary rows that one step added."""

    title: str
    new: NewTokens


@dataclass(frozen=True)
class Search:
    """How one step's weights were found. names: of the models by digest."""

    title: str
    record: SearchRecord
    names: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"step": self.title} | search_json(self.record, self.names)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has a lineage. path: relative to the folder that is reported on."""

    title: str
    path: str
    lineage: Lineage


@dataclass
class Content:
    """Everything of one report. kind: "run" or "checkpoint". stages: of a run; root: the lineage of a checkpoint."""

    kind: str
    title: str
    about: str = ""
    recipe: str | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    stages: list[StageRecord] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    blocks: list[Blocks] = field(default_factory=list)
    merges: list[Merge] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    root: Lineage | None = None
    vocabulary: Vocabulary | None = None

    def to_json(self) -> dict[str, Any]:
        """The numbers of the report; those of the inputs are as they were."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "title": self.title,
            "about": self.about,
            "recipe": self.recipe,
            "evaluations": [
                {"stage": e.title, "table": _table(e.rows)} | e.result.model_dump(exclude_unset=True)
                for e in self.evaluations
            ],
            "stages": [s.model_dump(exclude_unset=True) for s in self.stages],
            "training": [t.to_json() for t in self.trainings],
            "blocks": [{"step": b.title} | block_map_json(b.map) for b in self.blocks],
            "merges": [{"step": m.title} | described(m.deltas) for m in self.merges],
            "new_tokens": [{"step": t.title} | t.new.to_json() for t in self.tokens],
            "searches": [search.to_json() for search in self.searches],
            "vocabulary": self.vocabulary.to_json() if self.vocabulary else None,
            "checkpoints": [
                {"name": c.title, "path": c.path, "plan": c.lineage.plan, "versions": c.lineage.versions,
                 "files": c.lineage.files,
                 "parents": [{"name": p.name, "role": p.role, "digest": p.digest} for p in c.lineage.parents]}
                for c in self.checkpoints
            ],
            "lineage": self.root.model_dump(mode="json", exclude_defaults=True) if self.root else None,
        }  # fmt: skip


def gather(folder: Path) -> Content:
    """The content of a run's folder (run.json) or a checkpoint (surgeon.json). Raises SurgeonError on neither."""
    if not folder.is_dir():
        raise SurgeonError("there is no such folder", str(folder), "give the folder of a run or of a checkpoint")
    if (folder / RUN_FILE).exists():
        return _of_run(folder, read_run(folder))
    lineage = read_lineage(folder)
    if lineage is None:
        raise SurgeonError(
            f"there is neither {RUN_FILE} nor {LINEAGE_FILE}",
            str(folder),
            "give the folder of `surgeon run`, or a checkpoint that surgeon wrote",
        )
    return _of_checkpoint(folder, lineage)


def _of_run(folder: Path, run: RunRecord) -> Content:
    content = Content("run", run.title, run.about, run.recipe, stages=run.stages)
    names = _model_names(folder, run)
    for stage in run.stages:
        where = f"{folder / RUN_FILE}: stage {stage.name}"
        out = folder / stage.out if stage.out is not None else None
        lineage = read_lineage(out) if out is not None else None
        if stage.operation == "evaluate":
            result = read_evaluation(stage.result, where)
            content.evaluations.append(Evaluation(stage.name, evaluation_table(stage.result, names=names), result))
        if out is not None and lineage is not None:
            content.checkpoints.append(Checkpoint(stage.name, str(stage.out), lineage))
            _add_maps(content, stage.name, out, lineage)
        if stage.operation == CPT:
            content.trainings.append(training_of_stage(stage, out, lineage, where))
    return content


def _of_checkpoint(folder: Path, lineage: Lineage) -> Content:
    content = Content("checkpoint", folder.resolve().name, root=lineage, vocabulary=of_lineage(lineage, folder))
    content.checkpoints.append(Checkpoint(content.title, ".", lineage))
    for number, ancestor in enumerate(reversed(list(lineage.chain())), start=1):
        _add_maps(content, f"{number}. {ancestor.operation}", folder, ancestor)
    content.trainings += trainings_of_checkpoint(folder, lineage)
    return content


def _add_maps(content: Content, title: str, folder: Path, lineage: Lineage) -> None:
    if lineage.blocks is not None:
        content.blocks.append(Blocks(title, lineage.blocks))
    deltas = deltas_of(folder, lineage)
    if deltas is not None:
        content.merges.append(Merge(title, deltas))
    if lineage.rows is not None:
        content.tokens.append(Tokens(title, new_tokens(folder, lineage.rows)))
    if lineage.merge is not None and "search" in lineage.merge:
        names = {parent.digest: parent.name for parent in lineage.parents}
        content.searches.append(Search(title, SearchRecord.model_validate(lineage.merge["search"]), names))


def _model_names(folder: Path, run: RunRecord) -> dict[str, str]:
    """What an evaluation calls a stage's output, by every way its path may have been written."""
    names: dict[str, str] = {}
    for stage in run.stages:
        if stage.out is not None:
            path = folder / stage.out
            for text in (stage.out, str(path), str(path.absolute()), str(path.resolve())):
                names[text] = stage.name
    return names


def _table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with their changes, which are the only numbers here that the report itself computed."""
    return [
        {"model": row.model, "corpora": [{"name": c.corpus, "bits_per_byte": c.bits_per_byte,
         "change_percent": c.change, "tokens_per_byte": c.tokens_per_byte} for c in row.cells]}
        for row in rows
    ]  # fmt: skip
