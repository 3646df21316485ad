"""surgeon cpt."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon cpt wide domain --data domain.jsonl --replay general.jsonl --replay-ratio 0.3 --tokens 20k --seq-len 128 --batch-tokens 2048 --lr 1e-3 --eval general=general.jsonl --eval domain=domain.jsonl",
    "surgeon cpt deep deep-trained --data domain.jsonl --tokens 8k --seq-len 128 --batch-tokens 2048 --train new-blocks",
    "surgeon cpt base instruct --data instruct.jsonl --tokens 20k --seq-len 128 --batch-tokens 2048 --lr 1e-3",
    "surgeon cpt deep+adapter adapter-trained --data domain.jsonl --tokens 4k --seq-len 128 --batch-tokens 1024 --train adapter",
    "surgeon cpt base staged --data domain.jsonl --replay general.jsonl --mixture 0.5:domain=1,general=3 1:domain=3,general=1 --packing concat --tokens 4k --seq-len 128 --batch-tokens 1024",
    "surgeon cpt base evened --data domain.jsonl --data general.jsonl --sampling unimax:max_epochs=3 --tokens 4k --seq-len 128 --batch-tokens 1024",
    "surgeon cpt base lengthened --data domain.jsonl --lengths 64:0.4,256:0.6 --tokens 6k --batch-tokens 1024",
    "surgeon cpt base described --data domain.jsonl --tokens 1M --dry-run",
)  # fmt: skip

ABOUT = "Continue the pre-training of MODEL on a corpus, with replay of general text."


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.train.settings import CptSettings

    command(
        app,
        "cpt",
        CptSettings,
        performer("cpt"),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("model", "out"),
    )
