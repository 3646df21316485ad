"""surgeon expand-layers."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon expand-layers base deep --add 2",
    "surgeon expand-layers base deep-at --at 1,3 --fill zero",
    "surgeon expand-layers base solar --select range --option start=1 --option stop=4 --layout block --fill copy",
    "surgeon expand-layers base linked --at 4 --link",
    "surgeon expand-layers base adept --add 2 --select importance --probe general.jsonl",
    "surgeon expand-layers base ranked --add 3 --select io_cosine --probe general.jsonl --option tokens=3k --dry-run",
    "surgeon expand-layers base planned --add 5 --dry-run",
    "surgeon expand-layers deep undone --undo",
)

ABOUT = "Deepen MODEL by duplicating blocks; with the default fill the new model computes exactly the same."


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.expand.plan import ExpandSettings

    command(
        app,
        "expand-layers",
        ExpandSettings,
        performer("expand-layers"),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("model", "out"),
    )
