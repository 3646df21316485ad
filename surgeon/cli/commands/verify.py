"""surgeon verify."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text
from surgeon.errors import DIFFERENCE

EXAMPLES = (
    "surgeon verify deep",
    "surgeon verify deep --function --data general.jsonl",
    "surgeon verify deep --function --memory 1M",
    "surgeon verify wide-hull --function --data general.jsonl",
)
ABOUT = "Check OUT's bytes against its lineage; with --function also the promise of the operation. Exit 3 if broken."


def register(app: typer.Typer) -> None:
    @app.command("verify", help=ABOUT, epilog=example_text(EXAMPLES))
    def verify(
        out: Annotated[str, typer.Argument(metavar="OUT", show_default=False)],
        function: Annotated[bool, typer.Option("--function", help="Also what the operation promised.")] = False,
        data: Annotated[list[str] | None, typer.Option("--data", metavar="CORPUS", help="Text to probe with.")] = None,
        parent: Annotated[
            str | None, typer.Option("--parent", metavar="MODEL", help="Where the parent is now.", show_default=False)
        ] = None,
        memory: Annotated[
            str | None,
            typer.Option(
                "--memory",
                metavar="N",
                help="Bytes a model may take (k, M, B); larger ones are not loaded.",
                show_default=False,
            ),
        ] = None,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from surgeon.data.numbers import parse_count
        from surgeon.model_ref import resolve_plain
        from surgeon.verify import verify as check

        output = Output(json, quiet)
        result = check(
            resolve_plain(out, "a verification").path,
            function=function,
            data=data or [],
            parent=None if parent is None else resolve_plain(parent, "a parent").path,
            memory=None if memory is None else parse_count(memory),
            progress=output.progress(),
        )
        rows = [(c["check"], "holds" if c["holds"] else "BROKEN", c["detail"]) for c in result["checks"]]
        output.table(result, "", ("check", "", "detail"), rows)
        if not result["holds"]:
            raise typer.Exit(DIFFERENCE)
