"""Settings from several places, strict and frozen: default < recipe < `--set key=value` < flag."""

from __future__ import annotations

import re
import typing
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic import BaseModel

from surgeon.errors import UsageError, did_you_mean
from surgeon.number import misread

S = TypeVar("S", bound=BaseModel)
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


def from_home(path: str) -> str:
    """`~/...` below the person's folder, unless there is such a path as written: a shell leaves it alone behind a `=`
    (`--data domain=~/domain.jsonl`), and has no part in a recipe."""
    if not path.startswith("~/") or Path(path).exists():
        return path
    return str(Path(path).expanduser())


def resolve(
    model: type[S],
    *,
    recipe: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    words: str = "",
    by_place: Sequence[str] = (),
) -> tuple[S, dict[str, str]]:
    """The settings and where each value came from ("default", "recipe", "--set", "flag"). words: the command as a
    person writes it; by_place: the fields that are given there without a flag.

    Raises UsageError on an unknown key (with a suggestion) and on a value of the wrong type.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(model.model_fields, "default")
    layers = [("recipe", dict(recipe or {})), ("--set", dict(key_value(s) for s in sets)), ("flag", dict(flags or {}))]
    for origin, layer in layers:
        for key, value in ((str(key), value) for key, value in layer.items()):
            field = key.replace("-", "_")
            if field not in model.model_fields:
                known = [name.replace("_", "-") for name in model.model_fields]
                raise UsageError(f"there is no setting {key!r}", f"{origin} {key}", did_you_mean(key, known))
            if origin == "recipe" and origins[field] == origin:
                raise UsageError(
                    f"{field.replace('_', '-')} stands twice, as seq-len and seq_len would",
                    f"{origin} {key}",
                    "leave one of them out",
                )
            _refuse_truth(model, field, value, f"{origin} {key}")
            values[field] = split_list(model, field, value)
            _refuse_misread(model, field, values[field], _place(origin, key))
            origins[field] = origin
    try:
        return model.model_validate(values), origins
    except pydantic.ValidationError as error:
        raise _refusal(error, origins, words, by_place) from error


class Loader(yaml.SafeLoader):
    """As safe_load, less numbers that only YAML 1.1 takes for some: 1_0 for ten, 010 for eight, 1:30 for ninety. They
    are text here, and whoever wants a number says so, or reads it as a person does (Count: 1_000)."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in held if tag not in (_INT, _FLOAT)]
    for first, held in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+|0b[01]+)$"), list("-+0123456789"))
Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"(?:[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


class _EachKeyOnce(Loader):
    """Of a key that stands twice in a mapping the others take the last value without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that must hold a mapping, as Loader reads it, each key once (YAML 1.1: 3e-4 is text)."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_EachKeyOnce)
    except FileNotFoundError as error:
        raise UsageError("there is no such file", str(path), "check the path") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"the file is not valid YAML: {reason}", str(path), "mend the file") from error
    if not isinstance(value, dict):
        raise UsageError("the file does not hold a mapping", str(path), "write `key: value` lines")
    return value


def key_value(text: str) -> tuple[str, Any]:
    """`key=value`; the value is read as YAML would read it."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is not KEY=VALUE", "--set", "write --set KEY=VALUE")
    try:
        return key, yaml.load(value, Loader=Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"the value of {key!r} is not valid YAML", f"--set {text}", "quote it") from error


def split_list(model: type[BaseModel], field: str, value: Any) -> Any:
    """`3,7,11` for a field that is a list of numbers; any single value for a field that is a list."""
    item = list_item(model.model_fields[field].annotation)
    if item is None or isinstance(value, list | tuple):
        return value
    if isinstance(value, str) and item in (int, float):
        return [part.strip() for part in value.split(",")]
    return [value]


def _refuse_truth(model: type[BaseModel], field: str, value: Any, where: str) -> None:
    """Pydantic takes true for the number 1, and YAML takes `yes` and `on` for true."""
    truths = [v for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, bool)]
    if truths and not _takes_truth(model.model_fields[field].annotation):
        raise UsageError(
            f"{field.replace('_', '-')}: {str(truths[0]).lower()} is neither a number nor a text",
            where,
            "write the number, or quote the text: YAML reads yes, no, on and off as true and false",
        )


def _refuse_misread(model: type[BaseModel], field: str, value: Any, where: str) -> None:
    """Pydantic takes 1_0 for the number ten."""
    held = model.model_fields[field]
    own = any(isinstance(m, pydantic.BeforeValidator) for m in held.metadata)
    if not own and (word := misread(held.annotation, value)) is not None:
        raise UsageError(f"{field.replace('_', '-')}: {word!r} is not a number", where, "write it in digits, as 10")


def _place(origin: str, key: str) -> str:
    return "--" + key.replace("_", "-") if origin == "flag" else f"{origin} {key}"


def _takes_truth(annotation: Any) -> bool:
    return annotation is bool or annotation is Any or any(map(_takes_truth, typing.get_args(annotation)))


def list_item(annotation: Any) -> Any:
    """The item type of `list[X]` or `list[X] | None`, else None."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(candidate) in (list, tuple):
            return typing.get_args(candidate)[0]
    return None


def _refusal(
    error: pydantic.ValidationError, origins: Mapping[str, str], words: str, by_place: Sequence[str]
) -> UsageError:
    first = error.errors()[0]
    if first["type"] == "missing" and first["loc"][0] in by_place:
        place = str(first["loc"][0]).upper()
        return UsageError(f"{place} is needed", words, f"give {place}; see --help for what it is")
    name = str(first["loc"][0]).replace("_", "-") if first["loc"] else "settings"
    given = origins.get(name.replace("-", "_"), "default")
    where = f"--{name}" if given in ("flag", "default") else f"{given} {name}"
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return UsageError(f"{name} is needed", where, f"give {name}")
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):  # one of several values in a row
        message = f"it takes {first['loc'][-1] + 1} values"
    shown = f" (given: {first['input']!r})" if first["type"] != "value_error" else ""
    more = f"; {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return UsageError(f"{name}: {message}{shown}{more}", where, "see --help for what it takes")
