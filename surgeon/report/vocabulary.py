"""What an extension of the vocabulary gives and costs, corpus by corpus: of the tokenizers, and in bits per byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage, RowMap, read_lineage
from surgeon.checkpoint.parents import parent_folder
from surgeon.errors import SurgeonError, UsageError
from surgeon.loading import Device, Dtype
from surgeon.measure.tokenization import Tokenization, compare, texts_of
from surgeon.progress import SILENT, Progress
from surgeon.report.table import change
from surgeon.vocab.tokenizer_json import TokenizerFile, unreachable

BEFORE, STEP_0, AFTER = "before", "step_0", "after_cpt"


@dataclass(frozen=True)
class CorpusVocabulary:
    """bits_per_byte: one a model, in the order of Vocabulary.models."""

    name: str
    tokenization: Tokenization
    bits_per_byte: list[float]

    @property
    def changes(self) -> list[float | None]:
        """Percent against the model before."""
        return [change(self.bits_per_byte[0], bits) for bits in self.bits_per_byte]


@dataclass(frozen=True)
class Vocabulary:
    """An extension. old, rows, added: rows of the parent, rows stored, new tokens. curve: (tokens added, tokens of
    the learning corpus then). calibration: what old text loses, as the extension measured it. models: what was
    measured, BEFORE first; unreachable: new tokens that cannot come out. The last three are of given corpora."""

    old: int
    rows: int
    added: int
    curve: list[tuple[int, int]]
    calibration: dict[str, Any] | None
    models: dict[str, str] = field(default_factory=dict)
    unreachable: list[str] | None = None
    corpora: list[CorpusVocabulary] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The models' roles as people read them."""
        return [role.replace("_", " ") for role in self.models]

    @property
    def says_something(self) -> bool:
        return bool(self.curve or self.calibration or self.corpora)

    def to_json(self) -> dict[str, Any]:
        return {
            "old": self.old,
            "rows": self.rows,
            "added": self.added,
            "curve": [list(point) for point in self.curve],
            "calibration": self.calibration,
            "models": self.models,
            "unreachable": self.unreachable,
            "corpora": [
                {"name": c.name}
                | c.tokenization.to_json()
                | {"bits_per_byte": dict(zip(self.models, c.bits_per_byte, strict=True))}
                for c in self.corpora
            ],
        }


class Models(NamedTuple):
    """The model before the extension, its own output where that is still there, and one trained from it, if any."""

    before: Path
    step_0: Path | None
    after: Path | None
    rows: RowMap


def of_lineage(lineage: Lineage, where: Path) -> Vocabulary | None:
    """What the lineage remembers of the last extension; None where there was none."""
    rows = next((step.rows for step in lineage.chain() if step.rows is not None), None)
    return None if rows is None else _remembered(rows, where)


def measure_vocabulary(
    folder: Path, data: Sequence[str], *, parent: Path | None = None, after: Path | None = None,
    tokens: int | None = None, text_field: str = "text", lines: bool = False, device: Device = "auto",
    dtype: Dtype = "auto", progress: Progress = SILENT,
) -> Vocabulary:  # fmt: skip
    """Measure an extension, or a model trained from one, on corpora (`NAME=PATH`).

    Bits per byte are those of `surgeon evaluate` on the same documents, which `tokens` bounds as it does there. The
    parent is found through the lineage unless given. Raises SurgeonError where the folder comes from no extension, or
    a model that is needed is not there or not what the lineage names.
    """
    from surgeon.data.source import documents, parse_corpus
    from surgeon.measure.perplexity import evaluate

    found = find_models(folder, parent, after)
    models = {
        name: path
        for name, path in ((BEFORE, found.before), (STEP_0, found.step_0), (AFTER, found.after))
        if path is not None
    }
    result = evaluate(
        [str(path) for path in models.values()], data, tokens,
        device=device, dtype=dtype, text_field=text_field, lines=lines, progress=progress,
    )  # fmt: skip
    old, new = TokenizerFile.open(found.before), TokenizerFile.open(folder)
    ids = [row.id for row in found.rows.new]
    corpora = []
    for number, entry in enumerate(data):
        corpus = parse_corpus(entry, text_field=text_field, lines=lines, weighted=False)
        scores = [model["corpora"][number] for model in result["models"]]
        texts = texts_of(islice(documents(corpus), scores[0]["documents"]))
        measured = compare(old, new, ids, texts, corpus.name, progress)
        corpora.append(CorpusVocabulary(corpus.name, measured, [score["bits_per_byte"] for score in scores]))
    remembered = _remembered(found.rows, folder)
    return Vocabulary(
        old=remembered.old,
        rows=remembered.rows,
        added=remembered.added,
        curve=remembered.curve,
        calibration=remembered.calibration,
        models={name: path.resolve().name for name, path in models.items()},
        unreachable=unreachable(new, [row.token for row in found.rows.new]),
        corpora=corpora,
    )


def find_models(folder: Path, parent: Path | None = None, after: Path | None = None) -> Models:
    """The models to compare for an output of extend-vocab, or for one that was made from such an output."""
    lineage = read_lineage(folder)
    if lineage is None:
        raise SurgeonError("there is no surgeon.json: nothing is recorded", str(folder), "give what surgeon wrote")
    place: Path | None = folder
    for step in lineage.chain():
        if step.rows is not None:
            break
        place = _folder(place, step)
    else:
        raise SurgeonError("the lineage names no vocabulary extension", str(folder), "leave out --data")
    if place is None and parent is None:
        missing = next(s.parents[0] for s in lineage.chain() if s.parents)
        raise SurgeonError(
            f"the parent {missing.name!r} is not where it was, or no longer what it was",
            str(folder.resolve() / missing.path),
            "say where the model before the extension is with --parent MODEL",
        )
    before = parent_folder(place or folder, step, parent)
    if step is lineage:
        if after is not None:
            _check_descendant(after, folder)
        return Models(before, folder, after, step.rows)
    if after is not None:
        raise UsageError(
            "the model is itself made from the extension", "--after", "leave it out, or name the extension's output"
        )
    return Models(before, place, folder, step.rows)


def _folder(out: Path | None, lineage: Lineage) -> Path | None:
    """The first parent's folder, None where it is not there any more or is another."""
    try:
        return None if out is None or not lineage.parents else parent_folder(out, lineage)
    except SurgeonError:
        return None


def _check_descendant(after: Path, folder: Path) -> None:
    lineage = read_lineage(after)
    digest = Checkpoint.open(folder).digest
    steps = lineage.chain() if lineage is not None else ()
    if not any(parent.digest == digest for step in steps for parent in step.parents[:1]):
        raise SurgeonError(f"this model was not made from {folder.name!r}", str(after), "give one that was")


def _remembered(rows: RowMap, where: Path) -> Vocabulary:
    try:
        points = pydantic.TypeAdapter(list[tuple[int, int]]).validate_python((rows.learning or {}).get("curve") or [])
    except pydantic.ValidationError as error:
        raise SurgeonError(
            "the curve of the learning cannot be read", f"{where / LINEAGE_FILE}: rows.learning.curve", "restore it"
        ) from error
    return Vocabulary(rows.old, rows.rows, len(rows.new), points, rows.calibration)
