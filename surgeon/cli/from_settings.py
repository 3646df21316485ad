"""A command made from a settings class: every field is an argument or an option; unset flags stay unset."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from surgeon.cli import options
from surgeon.cli.output import Output
from surgeon.cli.verbs import verb_lines
from surgeon.cli.words import SHAPES, SWITCHES, Shape, example_text
from surgeon.errors import UsageError
from surgeon.settings import list_item, read_yaml, resolve


@dataclass(frozen=True)
class Flags:
    """The shared options of one call."""

    output: Output
    dry_run: bool = False
    plan: Path | None = None
    force: bool = False
    threads: int | None = None
    memory: int | None = None


def command(
    app: typer.Typer,
    name: str,
    settings: type[BaseModel],
    run: Callable[[BaseModel, Flags], None],
    *,
    about: str,
    examples: Sequence[str],
    positional: Sequence[str],
    variadic: str | None = None,
    writes: bool = True,
    panels: Mapping[str, str] | None = None,
) -> None:
    """Register `name`. `positional` fields become arguments (`variadic`: the last one takes several)."""
    shared = _shared(writes)

    def call(**given: Any) -> None:
        flags = Flags(
            Output(given.pop("json"), given.pop("quiet")),
            given.pop("dry_run", False),
            given.pop("plan_file", None),
            given.pop("force_", False),
            given.pop("threads", None),
            options.memory_bytes(given.pop("memory_", None)),
        )
        given.pop("debug")
        recipe, sets, show = given.pop("config_file"), given.pop("set_values"), given.pop("print_config")
        chosen = {key: _words(settings, key, value) for key, value in given.items() if value not in (None, [], ())}
        resolved, origins = resolve(
            settings,
            recipe=recipe and read_yaml(recipe),
            sets=sets or (),
            flags=chosen,
            words=" ".join(["surgeon", name, *(field.upper() for field in positional)]),
            by_place=positional,
        )
        if show:
            values = resolved.model_dump(mode="json")
            rows = [(key, repr(values[key]), origins[key]) for key in values]
            data = {key: {"value": values[key], "from": origins[key]} for key in values}
            flags.output.table(data, name, ("setting", "value", "from"), rows)
            return
        run(resolved, flags)

    parameters = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=[] if field == variadic else None,
            annotation=_annotation(settings, field, positional, variadic, panels or {}),
        )
        for field in [*positional, *(f for f in settings.model_fields if f not in positional)]
    ]
    call.__signature__ = inspect.Signature([*parameters, *shared])  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in [*parameters, *shared]}
    call.__doc__ = about
    optional = [f for f in settings.model_fields if f not in positional]
    several = frozenset(_flag(f) for f in optional if list_item(_type(settings, f)))
    truths = [f for f in optional if _type(settings, f) is bool]
    once = frozenset(_flag(f) for f in optional if not _is_several(_type(settings, f)) and f not in truths)
    SHAPES[name] = Shape(len(positional), several, SWITCHES.union(*((_flag(f), _no_flag(f)) for f in truths)), once)
    app.command(name, help=about, epilog=example_text(examples, verb_lines(name)))(call)


def _annotation(
    settings: type[BaseModel], name: str, positional: Sequence[str], variadic: str | None, panels: Mapping[str, str]
) -> Any:
    field = settings.model_fields[name]
    if name == variadic:
        return Annotated[list[str], typer.Argument(metavar=name.rstrip("s").upper() + "...", help=_help(field))]
    if name in positional:
        return Annotated[str | None, typer.Argument(metavar=name.upper(), help=_help(field), show_default=False)]
    panel = panels.get(name, "Options")
    kind = _type(settings, name)
    if kind is bool:
        return Annotated[bool | None, typer.Option(f"{_flag(name)}/{_no_flag(name)}", help=_help(field),
                         show_default=False, rich_help_panel=panel)]  # fmt: skip
    what = list[str] | None if _is_several(kind) else str | None
    return Annotated[
        what,
        typer.Option(
            _flag(name), metavar=_metavar(kind), help=_help(field), show_default=False, rich_help_panel=panel
        ),
    ]


def _is_several(kind: Any) -> bool:
    """Whether the option may be given several times: lists, and KEY=VALUE."""
    return typing.get_origin(kind) is dict or list_item(kind) is not None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _no_flag(name: str) -> str:
    return "--no-" + name.replace("_", "-")


def _type(settings: type[BaseModel], name: str) -> Any:
    """The field's type without `| None`."""
    annotation = settings.model_fields[name].annotation
    arguments = [a for a in typing.get_args(annotation) if a is not type(None)]
    is_optional = type(None) in typing.get_args(annotation)
    return arguments[0] if is_optional and len(arguments) == 1 else annotation


def _metavar(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(str(a) for a in typing.get_args(kind))
    if typing.get_origin(kind) is dict:
        return "KEY=VALUE"
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    item = list_item(kind)
    if item in (int, float):
        return "N,N,..."
    return {int: "N", float: "X", Path: "FILE"}.get(item or kind, "TEXT")


def _help(field: FieldInfo) -> str:
    text = (field.description or "").replace("[", r"\[")  # brackets would be read as markup
    if field.default is None or field.is_required() or field.default in ([], {}, ()) or field.default_factory:
        return text
    return rf"{text} \[default: {field.default}]".strip()


def _words(settings: type[BaseModel], name: str, value: Any) -> Any:
    """Repeated KEY=VALUE words as a mapping, numbers of several words as one with commas; everything else as it is."""
    if isinstance(value, list) and list_item(_type(settings, name)) in (int, float):
        return ",".join(value)
    if typing.get_origin(_type(settings, name)) is not dict or not isinstance(value, list):
        return value
    pairs = {}
    for word in value:
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not KEY=VALUE", _flag(name), f"write {_flag(name)} KEY=VALUE")
        pairs[key] = text
    return pairs


def _shared(writes: bool) -> list[inspect.Parameter]:
    chosen: list[tuple[str, Any, Any]] = [
        ("config_file", options.ConfigFile, None),
        ("set_values", options.SetValues, None),
        ("print_config", options.PrintConfig, False),
        ("json", options.Json, False),
        ("quiet", options.Quiet, False),
        ("debug", options.Debug, False),
    ]
    if writes:
        chosen += [
            ("dry_run", options.DryRun, False),
            ("plan_file", options.PlanFile, None),
            ("force_", options.Force, False),
            ("threads", options.Threads, None),
            ("memory_", options.Memory, None),
        ]
    return [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=a) for n, a, d in chosen]
