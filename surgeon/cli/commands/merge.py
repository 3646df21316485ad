"""surgeon merge: methods that need no base."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon merge linear averaged base=0.5 instruct=0.5",
    "surgeon merge slerp between base instruct --option t=0.3",
)

ABOUT = "Combine models of one shape without a base: METHOD is linear, slerp, ..."


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.merge.models import MergeModelsSettings

    command(
        app,
        "merge",
        MergeModelsSettings,
        performer("merge"),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("method", "out", "models"),
        variadic="models",
    )
