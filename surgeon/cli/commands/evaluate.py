"""surgeon evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from surgeon.cli.from_settings import Flags

EXAMPLES = (
    "surgeon evaluate base domain --data general=general.jsonl --data domain=domain.jsonl --tokens 2k",
    "surgeon evaluate base --data general.jsonl --tokens 500 --json",
    "surgeon evaluate base domain merged --data domain.jsonl --data general.jsonl --tokens 500 --stages domain,general",
    "surgeon evaluate base --tasks story_end --task-folder tasks --shots 1 --limit 4",
    "surgeon evaluate base long --data general.jsonl --by-position --positions 16,32,64 --context 128",
)
COLUMNS = (
    ("tokens", "tokens"), ("nats/token", "nats_per_token"), ("bits/byte", "bits_per_byte"), ("perplexity", "perplexity"),
    ("tokens/word", "tokens_per_word"), ("tokens/byte", "tokens_per_byte"),
)  # fmt: skip

ABOUT = (
    "Loss of each MODEL on each corpus: nats per token, bits per byte, perplexity, tokens per word and byte; --tasks "
    "asks the questions of lm-eval."
)


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.measure.settings import EvaluateSettings

    command(
        app,
        "evaluate",
        EvaluateSettings,
        run,
        about=ABOUT,
        examples=EXAMPLES,
        positional=("models",),
        variadic="models",
        writes=False,
    )


def run(settings: BaseModel, flags: Flags) -> None:
    from surgeon import operations

    result = operations.perform("evaluate", settings, progress=flags.output.progress())
    rows = [
        (name, c["name"], *(_cell(c[key]) for _, key in COLUMNS))
        for name, m in zip(_names(result), result["models"], strict=True)
        for c in m["corpora"]
    ]
    if rows or flags.output.as_json:
        flags.output.table(result, "", ("model", "corpus", *(title for title, _ in COLUMNS)), rows)
    if not flags.output.as_json:
        _show_positions(result, flags)
        _show_tasks(result, flags)
        _show_stages(result, flags)


def _show_stages(result: dict[str, Any], flags: Flags) -> None:
    """What a sequence of trainings kept, where it was asked for."""
    from surgeon.report.table import read_evaluation
    from surgeon.report.transfer import COLUMNS as TITLES
    from surgeon.report.transfer import transfer_line, transfer_rows

    found = read_evaluation(result, "evaluate").stages
    if found is not None:
        flags.output.table(result, "what the stages kept, in bits a byte", TITLES, transfer_rows(found))
        flags.output.emit(result, [transfer_line(found)])


def _show_tasks(result: dict[str, Any], flags: Flags) -> None:
    """A table of all scores: a row a metric, a column a model, with standard errors."""
    from surgeon.report.table import read_evaluation
    from surgeon.report.tasks import task_table

    found = task_table(read_evaluation(result, "evaluate"), _names(result))
    if found.rows:
        flags.output.table(result, "", found.columns, found.rows)
        cut = [
            f"{name}: {task['cut']:,} questions of {task['task']} are longer than the context, and were cut from the left"
            for name, model in zip(_names(result), result["models"], strict=True)
            for task in model.get("tasks", [])
            if task["cut"]
        ]
        flags.output.emit(result, cut)


def _show_positions(result: dict[str, Any], flags: Flags) -> None:
    """A table a corpus: nats per token by how many tokens stand before, a row a bucket and a column a model."""
    models = _names(result)
    for number, corpus in enumerate(result["models"][0]["corpora"]):
        if "by_position" not in corpus:
            continue
        columns = [m["corpora"][number]["by_position"] for m in result["models"]]
        spans = sorted({(b["start"], b["stop"]) for c in columns for b in c["buckets"]})
        rows = []
        for start, stop in spans:
            cells = [{(b["start"], b["stop"]): b["nats_per_token"] for b in c["buckets"]} for c in columns]
            rows.append((f"{start:,} to {stop - 1:,}", *(_cell(values.get((start, stop))) for values in cells)))
        windows = ", ".join(f"{c['windows']:,} windows of {c['context']:,} tokens" for c in columns)
        flags.output.table(result, f"{corpus['name']}: nats/token by tokens before", ("before", *models), rows)
        flags.output.emit(result, [windows])


def _names(result: dict[str, Any]) -> list[str]:
    """The models' folders; those of one name with the folder above."""
    given = [Path(m["model"]).absolute() for m in result["models"]]
    short = [path.name for path in given]
    return [
        name if short.count(name) == 1 else f"{path.parent.name}/{name}"
        for name, path in zip(short, given, strict=True)
    ]


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
