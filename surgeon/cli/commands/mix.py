"""surgeon mix: mixture laws. What it does is in its verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.verbs import verb_lines, verbs
from surgeon.cli.words import example_text
from surgeon.errors import UsageError, did_you_mean

EXAMPLES = (
    "surgeon mix fit runs.csv --law dcpt",
    "surgeon mix",
)
ABOUT = "How much domain text: fit a law to finished trainings, predict another one, find the share to train at."


def register(app: typer.Typer) -> None:
    @app.command("mix", help=ABOUT, epilog=example_text(EXAMPLES, verb_lines("mix")))
    def mix(
        verb: Annotated[str | None, typer.Argument(metavar="VERB", help="fit, predict or optimum.")] = None,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        known = {name.split()[1]: module.ABOUT for name, module in verbs("mix").items()}
        if verb is not None:  # a known one never comes here
            raise UsageError(f"mix has no verb {verb!r}", f"surgeon mix {verb}", did_you_mean(verb, known))
        Output(json, quiet).emit({"verbs": known}, verb_lines("mix"))
