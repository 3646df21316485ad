"""surgeon mix predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon.cli.numbers import count, share_of
from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text

EXAMPLES = (
    "surgeon mix predict law.json --parameters 1.8B --tokens 10B --share 0.9",
    "surgeon mix predict law.json --parameters 1.8B --tokens 40B --share 0.5 --json",
)
ABOUT = "Both losses of a training, by a fitted law; says where it goes beyond the fitted runs."


def register(app: typer.Typer) -> None:
    @app.command("mix predict", help=ABOUT, epilog=example_text(EXAMPLES))
    def predict(
        fit: Annotated[Path, typer.Argument(metavar="FIT", help="A file of `surgeon mix fit --out`.")],
        parameters: Annotated[
            str, typer.Option("--parameters", metavar="N", help="Of the model (k, M, B).", show_default=False)
        ],
        tokens: Annotated[
            str, typer.Option("--tokens", metavar="N", help="Of the training (k, M, B).", show_default=False)
        ],
        share: Annotated[
            str, typer.Option("--share", metavar="X", help="Of the domain: 0.9 or 90%.", show_default=False)
        ],
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from surgeon.laws.answers import predict as answer
        from surgeon.laws.saved import read_fit

        at = (count("--parameters", parameters), count("--tokens", tokens), share_of("--share", share, most=1.0))
        Output(json, quiet).emit(answer(read_fit(fit), *at))
