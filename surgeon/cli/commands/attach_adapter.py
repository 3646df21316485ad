"""surgeon attach-adapter."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon attach-adapter deep adapter --rank 8 --alpha 16",
    "surgeon attach-adapter deep adapter-rs --rank 64 --scaling rank-stabilized --targets attention.q,attention.v --blocks new",
    "surgeon attach-adapter deep adapter-high --preset cpt-high-rank --rank 64",
    "surgeon attach-adapter wide adapter-rows --preset new-tokens",
    "surgeon attach-adapter deep adapter-eva --kind eva --rank 4 --probe domain.jsonl --probe-tokens 2k",
)  # fmt: skip

ABOUT = "Write a fresh PEFT adapter for MODEL; with it attached the model computes exactly the same."


def register(app: typer.Typer) -> None:
    from surgeon.adapters.attach import AttachSettings
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer

    command(
        app,
        "attach-adapter",
        AttachSettings,
        performer("attach-adapter"),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("model", "out"),
    )
