"""surgeon extend-context."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon extend-context base long --rope-base 500000 --max-length 2048",
    "surgeon extend-context base interpolated --max-length 2048 --rope-scaling linear:4 --link",
    "surgeon extend-context long longer --max-length 4096 --rope-scaling yarn:2 --dry-run",
)

ABOUT = "Let MODEL take longer texts: another rotary base or scaling in its configuration; every tensor is copied."


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.context.plan import ExtendContextSettings

    command(
        app,
        "extend-context",
        ExtendContextSettings,
        performer("extend-context"),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("model", "out"),
    )
