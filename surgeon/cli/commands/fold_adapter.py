"""surgeon fold-adapter."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon fold-adapter deep+adapter folded",
    "surgeon fold-adapter deep+adapter folded-both --weight 0.7 --add adapter-rs=0.3 --dtype bfloat16 --rounding stochastic",
)  # fmt: skip

ABOUT = "Add an adapter into the weights of its model: MODEL+ADAPTER becomes a plain checkpoint."


def register(app: typer.Typer) -> None:
    from surgeon.adapters.fold import FoldSettings
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer

    command(
        app,
        "fold-adapter",
        FoldSettings,
        performer("fold-adapter"),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("model", "out"),
    )
