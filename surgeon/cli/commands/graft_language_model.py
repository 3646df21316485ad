"""surgeon graft-language-model."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon graft-language-model multimodal text multimodal-again",
    "surgeon graft-language-model multimodal text multimodal-planned --dry-run",
)

ABOUT = "Put LANGUAGE_MODEL back into the multimodal MODEL it was extracted from: deeper, with new tokens, trained."


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.multimodal.graft import OPERATION, GraftSettings

    command(
        app,
        OPERATION,
        GraftSettings,
        performer(OPERATION),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("model", "language_model", "out"),
    )
