"""surgeon simplify-adapter."""

from __future__ import annotations

import typer

EXAMPLES = ("surgeon simplify-adapter deep+adapter-trained adapter-small",)

ABOUT = "Drop the ranks of an adapter that add nothing, and make a plain LoRA of one that started from the weights."


def register(app: typer.Typer) -> None:
    from surgeon.adapters.simplify import SimplifySettings
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer

    command(
        app,
        "simplify-adapter",
        SimplifySettings,
        performer("simplify-adapter"),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("adapter", "out"),
    )
