"""surgeon methods: what there is to choose from, by kind."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from surgeon import registry
from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output
from surgeon.cli.words import example_text
from surgeon.errors import UsageError, did_you_mean

EXAMPLES = (
    "surgeon methods",
    "surgeon methods fill",
    "surgeon methods merge dare_linear",
    "surgeon methods init --json",
)
ABOUT = (
    "List the methods of every KIND, or of one: name, options with defaults, what it does, its source. With a NAME: all "
    "that is to be said of it, such as its formula and where it differs from the paper."
)
HIDDEN = ("kernel",)  # what plans are made of, not a choice of a person's


def register(app: typer.Typer) -> None:
    @app.command("methods", help=ABOUT, epilog=example_text(EXAMPLES))
    def methods(
        kind: Annotated[str | None, typer.Argument(help="selector, fill, init, merge, schedule, ...")] = None,
        name: Annotated[str | None, typer.Argument(help="One of that kind.")] = None,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        kinds = [k for k in registry.KINDS if k not in HIDDEN]
        if kind is not None and kind not in registry.KINDS:
            raise UsageError(f"there is no kind {kind!r}", "surgeon methods", did_you_mean(kind, kinds))
        if kind is not None and name is not None:
            _tell(registry.get(kind, name), Output(json, quiet))
            return
        listed = [_about(m) for k in ([kind] if kind else kinds) for m in _methods(k, kind is not None)]
        rows = [(m["kind"], m["name"], _options(m["options"]), m["summary"], m["source"]) for m in listed]
        columns = ("kind", "name", "options", "what it does", "source")
        Output(json, quiet).table({"methods": listed}, "", columns, rows)


def _methods(kind: str, each: bool) -> list[registry.Method]:
    """The methods of a kind. each: those of families (mergekit:NAME) one by one, for which the library behind them is
    imported; otherwise a family is one line."""
    found = [registry.get(kind, name) for name in registry.names(kind)]
    for family in registry.families(kind):
        if each:
            found += [registry.get(kind, name) for name in registry.members(kind, family)]
        else:
            found.append(registry.whole_family(kind, family))
    return found


def _tell(method: registry.Method, output: Output) -> None:
    """One method, with its whole documentation."""
    text = inspect.getdoc(method.function) or method.summary
    found = _about(method) | {"documentation": text}
    options = [f"  {name}={_default(o)}  ({o['type']})" for name, o in found["options"].items()]
    output.emit(
        found, [f"{method.kind} {method.name}", "", *text.splitlines(), "", "options:", *(options or ["  none"])]
    )


def _default(option: dict[str, Any]) -> str:
    return "REQUIRED" if option["required"] else str(option["default"])


def _about(method: registry.Method) -> dict[str, Any]:
    return {
        "kind": method.kind,
        "name": method.name,
        "summary": method.summary,
        "options": {o.name: _option(o) for o in method.options.values()},
        "source": method.source,
    }


def _option(option: registry.Option) -> dict[str, Any]:
    return {"type": registry.type_name(option.annotation), "required": option.required} | (
        {} if option.required else {"default": option.default}
    )


def _options(options: dict[str, Any]) -> str:
    words = [name if o["required"] else f"{name}={o['default']}" for name, o in options.items()]
    return ", ".join(words) or "-"
