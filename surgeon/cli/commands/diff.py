"""surgeon diff."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text
from surgeon.errors import DIFFERENCE

EXAMPLES = ("surgeon diff base instruct", "surgeon diff base base --json")
ABOUT = (
    "What differs between A and B: names, shapes, and per unit the norm of the delta and the cosine. Exit 3 if any."
)


def register(app: typer.Typer) -> None:
    @app.command("diff", help=ABOUT, epilog=example_text(EXAMPLES))
    def diff(
        a: Annotated[str, typer.Argument(metavar="A", show_default=False)],
        b: Annotated[str, typer.Argument(metavar="B", show_default=False)],
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from surgeon.measure.delta import diff as compare
        from surgeon.model_ref import resolve

        output = Output(json, quiet)
        data = compare(resolve(a).path, resolve(b).path, progress=output.progress())
        rows = [
            (u["unit"], f"{u['norm']:.6g}", _number(u["relative"]), _number(u["cosine"]))
            for u in data["units"]
            if u["norm"] != 0
        ]
        output.table(data, "", ("unit", "|delta|", "|delta|/|A|", "cosine"), rows)
        if not json:
            for what in ("only_a", "only_b", "shapes", "dtypes"):
                output.emit(data, [f"{what}: {entry}" for entry in data.get(what, [])])
            output.emit(data, ["identical tensors" if data["identical"] else "the tensors differ"])
        if not data["identical"]:
            raise typer.Exit(DIFFERENCE)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"
