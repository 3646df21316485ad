"""surgeon merge-task-vectors."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon merge-task-vectors base merged --add instruct=1.0 --add domain=1.0",
    "surgeon merge-task-vectors base merged-half --add instruct=0.5 --onto domain --dry-run",
    "surgeon merge-task-vectors base merged-both --add wide-hull=1.0 --add wide-other=1.0 --onto wide-both",
    "surgeon merge-task-vectors base searched --add instruct domain --search chat=instruct.jsonl general=general.jsonl --search-tokens 500 --search-grid 3",
)

ABOUT = "BASE plus weighted deltas of models made from it, also when one is deeper or has more tokens."


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.merge.plan import MergeSettings

    command(
        app,
        "merge-task-vectors",
        MergeSettings,
        performer("merge-task-vectors"),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("base", "out"),
    )
