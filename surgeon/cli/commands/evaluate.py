"""surgeon evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from surgeon.cli.from_settings import Flags

EXAMPLES = (
    "surgeon evaluate base domain --data general=general.jsonl --data domain=domain.jsonl --tokens 2k",
    "surgeon evaluate base --data general.jsonl --tokens 500 --json",
)
COLUMNS = (
    ("tokens", "tokens"), ("nats/token", "nats_per_token"), ("bits/byte", "bits_per_byte"), ("perplexity", "perplexity"),
    ("tokens/word", "tokens_per_word"), ("tokens/byte", "tokens_per_byte"),
)  # fmt: skip

ABOUT = "Loss of each MODEL on each corpus: nats per token, bits per byte, perplexity, tokens per word and byte."


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
        (Path(m["model"]).name, c["name"], *(_cell(c[key]) for _, key in COLUMNS))
        for m in result["models"]
        for c in m["corpora"]
    ]
    flags.output.table(result, "", ("model", "corpus", *(title for title, _ in COLUMNS)), rows)


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
