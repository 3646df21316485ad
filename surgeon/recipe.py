"""A recipe: named inputs and stages in a YAML file, each stage an operation that may use another stage's output.

title: one line
about: a paragraph
vars: {tokens: 100k}                      # ${tokens} below; ${here} is the recipe's folder
inputs: {base: ${here}/quickstart/model}  # models by name, as a stage's output would be
stages:
  deep:
    run: expand-layers                    # an operation
    uses: {model: base}                   # settings that are an input or another stage's output
    with: {add: 2, fill: auto}            # all other settings, as the command's options are called
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from surgeon.errors import UsageError, did_you_mean
from surgeon.operations import operation
from surgeon.settings import key_value, read_yaml

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Stage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    run: str
    uses: dict[str, str | list[str]] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict, alias="with")


class Recipe(BaseModel):
    """The file as it is written; `stages` run in the order given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    about: str = ""
    vars: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    stages: dict[str, Stage]


@dataclass(frozen=True)
class Loaded:
    """A recipe with its variables filled in. `source` is the file."""

    source: Path
    recipe: Recipe

    @property
    def name(self) -> str:
        return self.source.stem


def recipes_dir() -> Path:
    """Where the recipes lie: in an installed wheel inside the package, in a checkout beside it."""
    packaged = Path(__file__).parent / "_recipes"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "recipes"


def find(text: str) -> Path:
    """The file of a recipe: a path that exists, else the name of one that ships."""
    path = Path(text)
    if path.is_file():
        return path
    shipped = {p.stem: p for p in sorted(recipes_dir().glob("*.yaml"))}
    if path.stem in shipped and (path.suffix in ("", ".yaml")) and path.parent.name in ("", "recipes"):
        return shipped[path.stem]
    raise UsageError("there is no such recipe", text, did_you_mean(path.stem, shipped))


def load(path: Path, sets: Sequence[str] = ()) -> Loaded:
    """Read, override (`stage.key=value`, `vars.key=value`, `inputs.key=value`), fill in variables, check."""
    value = read_yaml(path)
    for text in sets:
        _override(value, text)
    try:
        recipe = Recipe.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        hint = "a recipe has title, about, vars, inputs and stages; a stage has run, uses and with"
        raise UsageError(f"{place}: {first['msg']}", str(path), hint) from error
    variables = {"here": str(path.resolve().parent), **{k: str(v) for k, v in recipe.vars.items()}}
    recipe = Recipe(
        title=recipe.title,
        about=recipe.about,
        vars=recipe.vars,
        inputs={k: _fill_in(v, variables, f"inputs.{k}") for k, v in recipe.inputs.items()},
        stages={
            name: Stage(
                run=stage.run,
                uses=stage.uses,
                settings={k: _fill_in(v, variables, f"{name}.{k}") for k, v in stage.settings.items()},
            )
            for name, stage in recipe.stages.items()
        },
    )
    _check(recipe, path)
    return Loaded(path, recipe)


def stage_settings(stage: Stage, place: Callable[[str], str]) -> dict[str, Any]:
    """The settings of a stage; `place` gives the path of an input or a finished stage by name."""
    settings: dict[str, Any] = {k.replace("-", "_"): v for k, v in stage.settings.items()}
    for key, value in stage.uses.items():
        field = key.replace("-", "_")
        if isinstance(value, list):
            settings[field] = [*settings.get(field, []), *(_replace(v, place) for v in value)]
        else:
            settings[field] = _replace(value, place)
    return settings


def used(stage: Stage) -> list[str]:
    """Names of the inputs and stages that a stage uses, in the order written."""
    found: list[str] = []
    for value in stage.uses.values():
        for text in value if isinstance(value, list) else [value]:
            _replace(text, lambda name: found.append(name) or "")  # type: ignore[func-returns-value]
    return found


def _replace(text: str, place: Callable[[str], str]) -> str:
    """`NAME`, `NAME=WEIGHT` or `NAME+ADAPTER` with the names replaced by paths."""
    model, equals, weight = text.partition("=")
    return "+".join(place(part) for part in model.split("+")) + equals + weight


def _check(recipe: Recipe, path: Path) -> None:
    known = list(recipe.inputs)
    for name, stage in recipe.stages.items():
        if name in known:
            raise UsageError(f"the name {name!r} stands twice", str(path), "give every input and stage its own name")
        operation(stage.run)
        fields = operation(stage.run).settings_class().model_fields
        for key in (*stage.uses, *stage.settings):
            if key.replace("-", "_") not in fields:
                options = [f.replace("_", "-") for f in fields]
                raise UsageError(
                    f"{stage.run} has no setting {key!r}", f"{path}: stage {name}", did_you_mean(key, options)
                )
        for other in used(stage):
            if other not in known:
                raise UsageError(
                    f"stage {name!r} uses {other!r}, which is no input and no stage before it",
                    str(path),
                    did_you_mean(other, known),
                )
        known.append(name)


def _override(value: dict[str, Any], text: str) -> None:
    key, new = key_value(text)
    head, dot, tail = key.partition(".")
    stages = value.get("stages", {})
    if dot and head in ("vars", "inputs"):
        value.setdefault(head, {})
        if tail not in value[head]:
            raise UsageError(f"the recipe has no {head} {tail!r}", f"--set {text}", did_you_mean(tail, value[head]))
        value[head][tail] = new
    elif dot and isinstance(stages, dict) and head in stages:
        stages[head].setdefault("with", {})[tail] = new
    else:
        known = [*stages, "vars", "inputs"]
        raise UsageError(f"{key!r} is not STAGE.SETTING or vars.NAME", f"--set {text}", did_you_mean(head, known))


def _fill_in(value: Any, variables: Mapping[str, str], where: str) -> Any:
    if isinstance(value, list):
        return [_fill_in(v, variables, where) for v in value]
    if isinstance(value, dict):
        return {k: _fill_in(v, variables, where) for k, v in value.items()}
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> str:
        if match[1] not in variables:
            raise UsageError(f"there is no variable {match[1]!r}", where, did_you_mean(match[1], variables))
        return variables[match[1]]

    return _VARIABLE.sub(one, value)
