"""surgeon recipes: those that ship."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import typer

from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text
from surgeon.errors import SurgeonError

EXAMPLES = ("surgeon recipes", "surgeon recipes show quickstart", "surgeon recipes cp quickstart mine")
ABOUT = "List the recipes that ship (ls), print one (show NAME), or copy one with its files to a folder (cp NAME DIR)."


def register(app: typer.Typer) -> None:
    recipes = typer.Typer(help=ABOUT, epilog=example_text(EXAMPLES), rich_markup_mode="rich")

    @recipes.callback(invoke_without_command=True)
    def default(context: typer.Context, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
        if context.invoked_subcommand is None:
            _list(Output(json, quiet))

    @recipes.command("ls", help="List the recipes that ship.")
    def ls(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
        _list(Output(json, quiet))

    @recipes.command("show", help="Print a recipe.")
    def show(name: str, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
        from surgeon.recipe import find

        text = find(name).read_text(encoding="utf-8")
        if json:
            Output(True).emit({"name": find(name).stem, "text": text})
        else:
            sys.stdout.write(text)

    @recipes.command("cp", help="Copy a recipe, and the folders beside it that it names, to a new folder.")
    def cp(name: str, folder: Path, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
        from surgeon.checkpoint.commit import staged
        from surgeon.recipe import find

        source = find(name)
        if folder.exists():
            raise SurgeonError("the folder exists already", str(folder), "choose another name")
        beside = sorted(set(re.findall(r"\$\{here\}/([\w.-]+)", source.read_text(encoding="utf-8"))))
        with staged(folder) as partial:
            shutil.copy(source, partial / source.name)
            for name in beside:
                if (source.parent / name).is_dir():
                    shutil.copytree(source.parent / name, partial / name)
        Output(json, quiet).emit({"out": str(folder), "recipe": str(folder / source.name)})

    app.add_typer(recipes, name="recipes")


def _list(output: Output) -> None:
    from surgeon.recipe import recipes_dir
    from surgeon.settings import read_yaml

    found = [(path.stem, read_yaml(path)["title"], str(path)) for path in sorted(recipes_dir().glob("*.yaml"))]
    data = {"recipes": [{"name": n, "title": t, "path": p} for n, t, p in found]}
    output.table(data, "", ("name", "what it shows", "file"), found)
