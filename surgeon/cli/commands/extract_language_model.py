"""surgeon extract-language-model."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon extract-language-model multimodal text",
    "surgeon extract-language-model multimodal text-again --dry-run",
)

ABOUT = "The language model of a multimodal MODEL as a checkpoint of its own, byte for byte, for every operation here."


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.multimodal.extract import OPERATION, ExtractSettings

    command(
        app,
        OPERATION,
        ExtractSettings,
        performer(OPERATION),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("model", "out"),
    )
