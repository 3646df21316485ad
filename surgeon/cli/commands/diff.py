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
        from surgeon.model_ref import resolve_plain

        output = Output(json, quiet)
        left, right = (resolve_plain(text, "a difference").path for text in (a, b))
        data = compare(left, right, progress=output.progress())
        rows = [
            (u["unit"], f"{u['norm']:.6g}", _number(u["relative"]), _number(u["cosine"]))
            for u in data["units"]
            if u["norm"] != 0
        ]
        output.table(data, "", ("unit", "|delta|", "|delta|/|A|", "cosine"), rows)
        if not json:
            for what in ("only_a", "only_b", "shapes", "dtypes"):
                entries = data.get(what, [])
                output.emit(
                    data, _by_types(entries) if what == "dtypes" else [f"{what}: {entry}" for entry in entries]
                )
            output.emit(data, ["identical tensors" if data["identical"] else "the tensors differ"])
        if not data["identical"]:
            raise typer.Exit(DIFFERENCE)


def _by_types(entries: list[str]) -> list[str]:
    """`dtypes: NAME: F32 and BF16` for one tensor, one line for all that differ in the same way."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        name, _, types = entry.rpartition(": ")
        names.setdefault(types, []).append(name)
    return [
        f"dtypes: {held[0]}: {types}" if len(held) == 1 else f"dtypes: {len(held):,} tensors: {types}"
        for types, held in names.items()
    ]


def _number(value: float | None) -> str:
    """Six places, or where these hide that there is something, three digits of it."""
    if value is None:
        return "-"
    return f"{value:.2e}" if 0 < abs(value) < 5e-5 else f"{value:.6f}"
