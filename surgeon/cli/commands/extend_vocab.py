"""surgeon extend-vocab."""

from __future__ import annotations

import typer

EXAMPLES = (
    "surgeon extend-vocab deep wide --corpus domain.jsonl --add 64",
    "surgeon extend-vocab base wide-hull --corpus domain.jsonl --add 16 --init convex_hull --pad-to-multiple-of 64",
    "surgeon extend-vocab base wide-probed --corpus domain.jsonl --add 16 --probe general.jsonl --old-loss-budget 0.02",
    "surgeon extend-vocab base wide-brief --corpus domain.jsonl --add 16 --probe general.jsonl --init distill_hull --option steps=10 --option max_windows=64",
    "surgeon extend-vocab base wide-pieces --corpus domain.jsonl --add 16 --probe general.jsonl --init weighted_pieces --old-loss-budget 0.02",
    "surgeon extend-vocab base wide-untied --corpus domain.jsonl --add 16 --untie",
    "surgeon extend-vocab base wide-kept --corpus domain.jsonl --add 16 --keep-corpus general.jsonl --script Latin --stop-gain 0.5",
    "surgeon extend-vocab base wide-projected --corpus domain.jsonl --add 16 --init gaussian --project hull",
    "surgeon extend-vocab base wide-other --corpus general.jsonl --add 16",
    "surgeon extend-vocab wide-hull wide-both --tokens-of wide-other",
)

ABOUT = "Learn new tokens on a corpus by continuing the tokenizer's own merges, and initialise their rows."


def register(app: typer.Typer) -> None:
    from surgeon.cli.from_settings import command
    from surgeon.cli.perform import performer
    from surgeon.vocab.settings import ExtendVocabSettings

    command(
        app,
        "extend-vocab",
        ExtendVocabSettings,
        performer("extend-vocab"),
        about=ABOUT,
        examples=EXAMPLES,
        positional=("model", "out"),
    )
