"""surgeon methods: what there is to choose from, by kind."""

from __future__ import annotations

import typing
from typing import Annotated, Any

import typer

from surgeon import registry
from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text
from surgeon.errors import UsageError, did_you_mean

EXAMPLES = ("surgeon methods", "surgeon methods fill", "surgeon methods init --json")
ABOUT = "List the methods of every KIND, or of one: name, options with defaults, what it does, its source."
HIDDEN = ("kernel",)  # what plans are made of, not a choice of a person's


def register(app: typer.Typer) -> None:
    @app.command("methods", help=ABOUT, epilog=example_text(EXAMPLES))
    def methods(
        kind: Annotated[str | None, typer.Argument(help="selector, fill, init, merge, schedule, ...")] = None,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        kinds = [k for k in registry.KINDS if k not in HIDDEN]
        if kind is not None and kind not in registry.KINDS:
            raise UsageError(f"there is no kind {kind!r}", "surgeon methods", did_you_mean(kind, kinds))
        found = [registry.get(k, name) for k in ([kind] if kind else kinds) for name in registry.names(k)]
        data = {
            "methods": [
                {
                    "kind": m.kind,
                    "name": m.name,
                    "summary": m.summary,
                    "options": {o.name: _option(o) for o in m.options.values()},
                    "source": m.source,
                }
                for m in found
            ]
        }
        rows = [(m.kind, m.name, _options(m), m.summary, m.source) for m in found]
        Output(json, quiet).table(data, "", ("kind", "name", "options", "what it does", "source"), rows)


def _option(option: registry.Option) -> dict[str, Any]:
    return {"type": _type(option.annotation), "required": option.required} | (
        {} if option.required else {"default": option.default}
    )


def _options(method: registry.Method) -> str:
    return ", ".join(o.name if o.required else f"{o.name}={o.default}" for o in method.options.values()) or "-"


def _type(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
