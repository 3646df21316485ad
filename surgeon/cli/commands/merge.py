"""surgeon merge: methods that need no base."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon merge linear averaged base=0.5 instruct=0.5",
    "surgeon merge slerp between base instruct --option t=0.3",
    "surgeon merge slerp curved base instruct --option t=0.5,attention:0,0.5,0.3,0.7,1,mlp:1,0.5,0.7,0.3,0",
    "surgeon merge sequence running base instruct --policy ema --weight 0.5",
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
