"""One table of models x corpora: bits per byte, the change against the first model, tokens per byte."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import BaseModel, ConfigDict

from surgeon.errors import SurgeonError, UsageError, did_you_mean
from surgeon.words import direction, fixed, model_label, percent, visible

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"better": "green", "worse": "red", "same": ""}


class CorpusResult(BaseModel):
    """One model on one corpus, as `surgeon evaluate --json` gives it; what is absent stays None."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: str
    documents: int | None = None
    bytes: int | None = None
    tokens: int | None = None
    nats_per_token: float | None = None
    bits_per_byte: float | None = None
    perplexity: float | None = None
    tokens_per_word: float | None = None
    tokens_per_byte: float | None = None


class MetricResult(BaseModel):
    """One score of a task."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    metric: str
    filter: str = "none"
    value: float | None = None
    stderr: float | None = None
    higher_is_better: bool | None = None


class TaskResult(BaseModel):
    """One task of lm-eval, or a group of them."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    task: str
    shots: int | None = None
    documents: int | None = None
    metrics: list[MetricResult]


class ModelResult(BaseModel):
    """One model on its corpora and its tasks."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    model: str
    corpora: list[CorpusResult]
    tasks: list[TaskResult] = []


class StageCorpus(BaseModel):
    """One corpus over a sequence of trainings; see surgeon.measure.matrix."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: str
    stage: int | None
    before: float
    learned: float | None
    last: float
    forgetting: float


class StagesResult(BaseModel):
    """What a sequence of trainings kept and gave to each other."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    corpora: list[StageCorpus]
    learned: float
    last: float
    backward_transfer: float
    forward_transfer: float


class EvaluateResult(BaseModel):
    """The JSON of `surgeon evaluate`."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    models: list[ModelResult]
    stages: StagesResult | None = None


@dataclass(frozen=True)
class Cell:
    """bits_per_byte; change: percent against the first model (negative is better); tokens_per_byte. None: absent."""

    corpus: str
    bits_per_byte: float | None
    change: float | None
    tokens_per_byte: float | None


@dataclass(frozen=True)
class Row:
    """One model, one cell a corpus in the table's order."""

    model: str
    cells: tuple[Cell, ...]


def evaluation_table(
    result: Mapping[str, Any], corpora: Sequence[str] | None = None, names: Mapping[str, str] | None = None
) -> list[Row]:
    """The rows, in the order of the models in `result` (the JSON of evaluate).

    corpora: which and in what order; by default all, as they first appear. names: what to call a model instead of
    its folder's name. Raises UsageError on a corpus that no model was measured on, SurgeonError on another JSON.
    """
    models = read_evaluation(result, "the result of evaluate").models
    known = list(dict.fromkeys(c.name for m in models for c in m.corpora))
    chosen = known if corpora is None else list(corpora)
    for name in chosen:
        if name not in known:
            raise UsageError(f"no model was measured on the corpus {name!r}", name, did_you_mean(name, known))
    measured = [{c.name: c for c in m.corpora} for m in models]
    rows = []
    for i, (model, found) in enumerate(zip(models, measured, strict=True)):
        cells = []
        for name in chosen:
            mine, first = found.get(name), measured[0].get(name)
            bits = mine.bits_per_byte if mine else None
            start = first.bits_per_byte if first and i > 0 else None
            cells.append(Cell(name, bits, change(start, bits), mine.tokens_per_byte if mine else None))
        rows.append(Row((names or {}).get(model.model) or model_label(model.model), tuple(cells)))
    return rows


def change(first: float | None, last: float | None) -> float | None:
    """Percent from `first` to `last`; None where either is absent, not finite, or `first` is zero."""
    if first is None or last is None or not (math.isfinite(first) and math.isfinite(last)) or first == 0:
        return None
    return 100.0 * (last - first) / first


def read_evaluation(result: Mapping[str, Any], where: str) -> EvaluateResult:
    """The JSON of evaluate, checked; a corpus that is twice in one model is refused."""
    try:
        checked = EvaluateResult.model_validate(result)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SurgeonError(
            f"this is not a result of evaluate: {first['msg']}", f"{where}: {place}", "run the evaluation again"
        ) from error
    for model in checked.models:
        names = [c.name for c in model.corpora]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise SurgeonError(
                f"the corpus {twice!r} is twice in the results of {model.model!r}",
                where,
                "name each corpus differently",
            )
    return checked


def rich_table(rows: Sequence[Row], title: str | None = None) -> Table:
    """The rows for a terminal, in ASCII but for the names; names are text, never markup.

    Two columns a corpus: bits per byte with its change, and tokens per byte; three corpora fit in 80 characters.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(visible(title)) if title else None, title_justify="left", box=box.ASCII2, header_style="bold",
        caption="bits/byte: lower is better; % is the change against the first model", caption_justify="left",
        show_edge=False, pad_edge=False,
    )  # fmt: skip
    table.add_column("model", overflow="fold")
    for cell in rows[0].cells if rows else ():
        table.add_column(Text(f"{visible(cell.corpus)}\nbits/byte"), justify="right", overflow="fold")
        table.add_column(Text("\ntok/B"), justify="right")
    for row in rows:
        line = [Text(visible(row.model))]
        for cell in row.cells:
            shown = Text(_ascii(fixed(cell.bits_per_byte)))
            if cell.change is not None:
                shown.append(f" {percent(cell.change):>6}", style=_STYLES[direction(cell.change)])
            line += [shown, Text(_ascii(fixed(cell.tokens_per_byte)))]
        table.add_row(*line)
    return table


def _ascii(text: str) -> str:
    return text.replace("–", "-")
