"""surgeon report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text

EXAMPLES = ("surgeon report domain --out domain-report",)
ABOUT = "One offline HTML file with plots, and its numbers as JSON, for a run's folder or a checkpoint."


def register(app: typer.Typer) -> None:
    @app.command("report", help=ABOUT, epilog=example_text(EXAMPLES))
    def report(
        folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder, or a checkpoint.")],
        out: Annotated[
            Path | None,
            typer.Option("--out", metavar="DIR", help=r"Where to write it \[default: DIR].", show_default=False),
        ] = None,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from surgeon.report.html import write_report

        paths = write_report(folder, out=out)
        Output(json, quiet).emit({"html": str(paths.html), "json": str(paths.json)})
