"""surgeon vectors."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text

EXAMPLES = ("surgeon vectors base instruct deep-trained",)
ABOUT = "Task vectors of each MODEL against BASE: norms, cosines with their null and z-score, sign conflicts."


def register(app: typer.Typer) -> None:
    @app.command("vectors", help=ABOUT, epilog=example_text(EXAMPLES))
    def vectors(
        base: Annotated[str, typer.Argument(metavar="BASE", show_default=False)],
        models: Annotated[list[str], typer.Argument(metavar="MODEL...", show_default=False)],
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from surgeon.cli.deltas import lines, number
        from surgeon.measure.vectors import vectors as measure

        output = Output(json, quiet)
        data = measure(base, models, progress=output.progress())
        rows = [(u["unit"], *(number(n) for n in u["relative"]), *_pair_cells(u)) for u in data["units"]]
        pairs = [f"{p['a']}~{p['b']}" for p in data["pairs"]]
        columns = (
            "unit",
            *(f"|d|/|W| {m}" for m in data["models"]),
            *(f"{w} {p}" for p in pairs for w in ("cos", "z", "conflicts", "disparity")),
        )
        output.table(data, "", columns, rows)
        if not json:
            output.emit(data, lines(data))


def _pair_cells(unit: dict[str, list[dict[str, float | None]]]) -> list[str]:
    from surgeon.cli.deltas import number

    return [number(pair[key]) for pair in unit["pairs"] for key in ("cosine", "z", "sign_conflicts", "disparity")]
