"""surgeon run: carry out a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surgeon.cli.options import Debug, DryRun, Json, Quiet, Threads
from surgeon.cli.output import Output
from surgeon.cli.words import example_text

EXAMPLES = (
    "surgeon run recipes/quickstart.yaml --dry-run",
    "surgeon run llama-pro --set scale=tiny --dry-run",
    "surgeon run quickstart --out small-run --set instruct.tokens=8k --set domain.tokens=8k --set table.tokens=2k",
)
ABOUT = "Carry out the stages of RECIPE; what is finished is not done again, what was killed goes on where it was."


def register(app: typer.Typer) -> None:
    @app.command("run", help=ABOUT, epilog=example_text(EXAMPLES))
    def run(
        recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of one that ships.")],
        out: Annotated[
            Path | None,
            typer.Option(
                "--out",
                help=r"The run's folder \[default: runs/RECIPE, at another scale runs/RECIPE-SCALE].",
                show_default=False,
            ),
        ] = None,
        set_values: Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                metavar="STAGE.KEY=VALUE",
                help="Override a setting; scale=NAME takes one of the recipe's scales.",
            ),
        ] = None,
        dry_run: DryRun = False,
        force: Annotated[
            bool, typer.Option("--force", help="Do every stage anew, finished or not.", rich_help_panel="Output")
        ] = False,
        threads: Threads = None,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from surgeon.recipe import find, load
        from surgeon.run import Runner

        output = Output(json, quiet)
        loaded = load(find(recipe), set_values or ())
        folder = out if out is not None else Path("runs") / loaded.folder_name
        progress = output.progress()
        progress.say(loaded.recipe.title)
        runner = Runner(loaded, folder, progress)
        if dry_run:
            stages = runner.plan()
            rows = [(s["name"], s["operation"], s["state"], s["key"][:12]) for s in stages]
            found = {"out": str(folder), "scale": loaded.scale, "inputs": loaded.recipe.inputs, "stages": stages}
            output.table(found, "", ("stage", "operation", "state", "key"), rows)
            if not json:
                shown = [("inputs", loaded.recipe.inputs)]
                shown += [(f"{s['name']}: {s['operation']}", s["settings"]) for s in stages]
                output.emit(None, [line for head, values in shown for line in (head, *_lines(values))])
            return
        result = runner.run(threads, force)

        from surgeon.report.html import write_report
        from surgeon.report.table import evaluation_table, read_evaluation, rich_table
        from surgeon.report.tasks import task_table
        from surgeon.report.transfer import transfer_line

        paths = write_report(folder)
        if json:
            output.emit({"out": str(folder), "report": str(paths.html), "numbers": str(paths.json), **result})
            return
        for stage in result["stages"]:
            if stage["operation"] == "evaluate":
                models = evaluation_table(stage["result"])
                if any(model.cells for model in models):
                    output.print(rich_table(models))
                evaluation = read_evaluation(stage["result"], stage["name"])
                asked = task_table(evaluation, [m.model for m in models])
                if evaluation.stages is not None:
                    output.emit(None, [transfer_line(evaluation.stages)])
                if asked.rows:
                    output.table(None, "", asked.columns, asked.rows)
        output.emit(None, [f"report: {paths.html}", f"numbers: {paths.json}"])


def _lines(values: dict[str, Any]) -> list[str]:
    """As a recipe writes them; models of stages by the names that they have there."""
    import yaml

    named = {key.replace("_", "-"): value for key, value in values.items()}
    return [f"  {line}" for line in yaml.safe_dump(named, sort_keys=False, width=1000).splitlines()]
