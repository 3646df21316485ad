"""surgeon cpt export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from surgeon.cli.from_settings import Flags

EXAMPLES = (
    "surgeon cpt export deep for-axolotl --to axolotl --data domain.jsonl --replay general.jsonl --tokens 8k --seq-len 128 --batch-tokens 2048 --train new-blocks",
    "surgeon cpt export base for-llamafactory --to llamafactory --data domain.jsonl --replay general.jsonl --tokens 8k --seq-len 128 --batch-tokens 2048",
    "surgeon cpt export deep+adapter for-adapter --to axolotl --data domain.jsonl --tokens 4k --seq-len 128 --batch-tokens 1024 --train adapter --option-to context_parallel_size=2 --dry-run",
)  # fmt: skip

ABOUT = "Write a training run as the configuration of another trainer, with its data and what it cannot say."


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.train.export_settings import ExportSettings

    command(
        app, "cpt export", ExportSettings, performer("cpt export", _show), about=ABOUT, examples=EXAMPLES, positional=("model", "out")
    )  # fmt: skip


def _show(result: dict[str, Any], flags: Flags) -> None:
    from surgeon.cli.output import pairs

    told = {k: v for k, v in result.items() if k not in _TOLD}
    flags.output.emit(result, [*pairs(told), *_data(result), *_notes(result)])


_TOLD = ("notes", "config", "data", "inputs", "verified")


def _data(result: dict[str, Any]) -> list[str]:
    return [
        f"corpus {d['name']}: {d['share']:.4g} of the tokens, {d['epochs']:.4g} epochs{' (replay)' if d['replay'] else ''}"
        for d in result["data"]
    ]


def _notes(result: dict[str, Any]) -> list[str]:
    """What differs, a line each, at the end where it is read."""
    return [f"not the same as `surgeon cpt` ({result['to']}):", *(f"- {note}" for note in result["notes"])]
