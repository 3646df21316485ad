"""surgeon average: the last checkpoints of one training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from surgeon.cli.from_settings import Flags

EXAMPLES = (
    "surgeon cpt base taught --data domain.jsonl --tokens 12k --seq-len 128 --batch-tokens 2048 --schedule constant --save-every 1 --keep-checkpoints 6",
    "surgeon average taught taught-averaged",
    "surgeon average taught taught-ema --last 4 --weights ema:0.2",
    "surgeon average taught.run by-hand --last 3 --weights 0.2,0.3,0.5 --dry-run",
)

ABOUT = (
    "Average the last checkpoints of one training run (cpt --keep-checkpoints, or a Trainer's checkpoint-500, ...)."
)


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.merge.average import AverageSettings

    command(
        app,
        "average",
        AverageSettings,
        performer("average", _show),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("run", "out"),
    )


def _show(result: dict[str, Any], flags: Flags) -> None:
    from surgeon.cli.output import pairs

    if flags.output.as_json:
        flags.output.emit(result)
        return
    # the checkpoints are a table of their own, and so are the digests of a description's inputs
    flags.output.emit(result, list(pairs({k: v for k, v in result.items() if k not in _TABLED})))
    rows = [_row(entry) for entry in result["checkpoints"]]
    flags.output.table(result, "", ("checkpoint, oldest first", "number", "weight"), rows)


_TABLED = ("checkpoints", "inputs", "settings", "verified")


def _row(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry["path"].rpartition("/")[2], str(entry["step"]), f"{entry['weight']:.6g}"
