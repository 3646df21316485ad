"""surgeon apply: carry out a saved plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon.cli.options import Debug, Force, Json, Memory, Quiet, Threads, memory_bytes
from surgeon.cli.output import Output
from surgeon.cli.words import example_text

EXAMPLES = ("surgeon expand-layers base applied --add 1 --plan plan.json", "surgeon apply plan.json")
ABOUT = "Carry out a plan that --plan saved, if its inputs are still the ones it was made for."


def register(app: typer.Typer) -> None:
    @app.command("apply", help=ABOUT, epilog=example_text(EXAMPLES))
    def apply(
        plan: Annotated[Path, typer.Argument(metavar="FILE", help="The saved plan.", show_default=False)],
        out: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="Another output than the plan's.")] = None,
        force: Force = False,
        threads: Threads = None,
        memory: Memory = None,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from surgeon.saved_plan import apply_plan

        output = Output(json, quiet)
        room = memory_bytes(memory)
        result = apply_plan(plan, out, force=force, threads=threads, memory=room, progress=output.progress())
        output.emit(result)
