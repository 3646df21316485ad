"""surgeon cpt anneal."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon cpt base kept --data domain.jsonl --tokens 8k --seq-len 128 --batch-tokens 2048 --schedule constant --keep-checkpoints 2",
    "surgeon cpt anneal kept annealed --data domain.jsonl --tokens 4k",
)

ABOUT = "Fork a run at its newest state or checkpoint, and let the learning rate fall to its end; RUN stays as it is."


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.train.anneal import AnnealSettings

    command(
        app, "cpt anneal", AnnealSettings, performer("cpt anneal"), about=ABOUT, examples=EXAMPLES,
        positional=("run", "out"),
    )  # fmt: skip
