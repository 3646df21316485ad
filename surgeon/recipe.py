"""A recipe: named inputs and stages in a YAML file, each stage an operation that may use another stage's output.

title: one line
about: a paragraph
vars: {tokens: 100k, corpus: null}        # ${tokens} below; ${here} is the recipe's folder; null: a person must set it
inputs: {base: org/model}                 # models by name, as a stage's output would be
stages:
  deep:
    run: expand-layers                    # an operation
    uses: {model: base}                   # settings that are an input or another stage's output
    with: {add: 2, fill: auto}            # all other settings, as the command's options are called
scales:                                   # named lists of other values, for `--set scale=NAME`
  tiny: {inputs.base: ${here}/quickstart/model, vars.tokens: 1k, deep.add: 1}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from surgeon.errors import UsageError, did_you_mean
from surgeon.operations import operation
from surgeon.scales import PAPER, with_values
from surgeon.settings import list_item, read_yaml, resolve

_OF_THE_RUN = ("out", "resume")
_LONGEST = 60
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
    scales: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """A recipe with its variables filled in. `source` is the file; `scale`: which of its values were taken."""

    source: Path
    recipe: Recipe
    scale: str = PAPER

    @property
    def name(self) -> str:
        return self.source.stem

    @property
    def folder_name(self) -> str:
        """Of a run's folder: a run at another scale than the file's own gets one of its own."""
        return self.name if self.scale == PAPER else f"{self.name}-{self.scale}"


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
    """Read, override (`scale=name`, `stage.key=value`, `vars.key=value`, `inputs.key=value`), fill in variables, check
    every setting of every stage. Raises UsageError."""
    value, scale = with_values(read_yaml(path), sets, str(path))
    try:
        recipe = Recipe.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        hint = "a recipe has title, about, vars, inputs, stages and scales; a stage has run, uses and with"
        raise UsageError(f"{place}: {first['msg']}", str(path), hint) from error
    here = {"here": str(path.resolve().parent)}
    variables = here | {k: _fill_in(v, here, f"vars.{k}") for k, v in _variables(recipe, path).items()}
    models = {*recipe.inputs, *recipe.stages}
    recipe = Recipe(
        title=recipe.title,
        about=recipe.about,
        vars=recipe.vars,
        inputs={k: _fill_in(v, variables, f"inputs.{k}") for k, v in recipe.inputs.items()},
        stages={
            name: Stage(
                run=stage.run,
                uses=stage.uses,
                settings={k: _fill_in(v, variables, f"{name}.{k}", models) for k, v in stage.settings.items()},
            )
            for name, stage in recipe.stages.items()
        },
        scales=recipe.scales,
    )
    _check(recipe, path)
    return Loaded(path, recipe, scale)


def stage_settings(stage: Stage, place: Callable[[str], str]) -> dict[str, Any]:
    """The settings of a stage; `place` gives the path of an input or a finished stage by name."""
    settings: dict[str, Any] = {k.replace("-", "_"): v for k, v in stage.settings.items()}
    for key, value in stage.uses.items():
        field = key.replace("-", "_")
        if isinstance(value, list):
            held = settings.get(field, [])
            settings[field] = [*(held if isinstance(held, list) else [held]), *(_replace(v, place) for v in value)]
        else:
            settings[field] = _replace(value, place)
    return settings


def used(stage: Stage, key: str | None = None) -> list[str]:
    """Names of the inputs and stages that a stage uses (key: as this setting alone), in the order written."""
    found: list[str] = []
    for value in stage.uses.values() if key is None else [stage.uses[key]]:
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
        _check_name(name, path)
        fields = operation(stage.run).settings_class().model_fields
        for key in (*stage.uses, *stage.settings):
            if key.replace("-", "_") in _OF_THE_RUN:
                raise UsageError(
                    f"{key} of a stage is decided by the run",
                    f"{path}: stage {name}",
                    "give the run's folder with --out",
                )
            if key.replace("-", "_") not in fields:
                options = [f.replace("_", "-") for f in fields]
                hint = _behind_its_model(key, stage) or did_you_mean(key, options)
                raise UsageError(f"{stage.run} has no setting {key!r}", f"{path}: stage {name}", hint)
        _check_once(name, stage, path)
        try:
            checked_settings(name, stage)  # a value of a wrong type is refused now, not when its turn comes
        except UsageError as error:
            raise UsageError(error.problem, f"{path}: stage {name}, {error.where}", error.hint) from error
        for other in used(stage):
            if other not in known:
                raise UsageError(
                    f"stage {name!r} uses {other!r}, which is no input and no stage before it",
                    str(path),
                    did_you_mean(other, known),
                )
        known.append(name)


def _behind_its_model(key: str, stage: Stage) -> str | None:
    """How to mend a stage that uses an adapter by a setting of its own: it stands behind its model."""
    adapters = stage.uses.get(key)
    if adapters is None or key.replace("-", "_") not in ("adapter", "adapters"):
        return None
    behind = "+".join(adapters if isinstance(adapters, list) else [adapters])
    setting = next((s for s in ("model", "base") if isinstance(stage.uses.get(s), str)), "model")
    return f"an adapter stands behind its model: write `{setting}: {stage.uses.get(setting, 'MODEL')}+{behind}`"


def _check_once(name: str, stage: Stage, path: Path) -> None:
    """A setting stands once: in one spelling, and under `uses` or under `with`; lists of models may be in both."""
    fields = operation(stage.run).settings_class().model_fields
    seen: dict[str, bool] = {}
    for keys, in_uses in ((stage.settings, False), (stage.uses, True)):
        for key in keys:
            field = key.replace("-", "_")
            is_list = list_item(fields[field].annotation) is not None and isinstance(stage.uses.get(key), list)
            if field in seen and (seen[field] == in_uses or not is_list):
                raise UsageError(
                    f"the setting {key!r} stands twice",
                    f"{path}: stage {name}",
                    "leave one out: it is one setting as seq-len and seq_len, and under `uses:` and `with:`",
                )
            seen[field] = in_uses


def _check_name(name: str, path: Path) -> None:
    """A stage's name is part of a file's name, and stands in `uses` as NAME, NAME+ADAPTER or NAME=WEIGHT."""
    if not name or not name.isprintable() or len(name) > _LONGEST or set(name) & set("/+="):
        raise UsageError(
            f"{name!r} does not do as the name of a stage",
            str(path),
            f"at most {_LONGEST} characters that can be printed, and no / + =",
        )


def checked_settings(name: str, stage: Stage, inputs: Mapping[str, str] | None = None) -> BaseModel:
    """The settings of a stage, with names in the place of models, of inputs their paths where `inputs` has them.
    Raises UsageError on values of a wrong type."""
    settings = stage_settings(stage, lambda used: (inputs or {}).get(used, used))
    fields = operation(stage.run).settings_class()
    found, _ = resolve(fields, recipe=settings | ({"out": name} if "out" in fields.model_fields else {}))
    return found


def _variables(recipe: Recipe, path: Path) -> dict[str, str]:
    """As they are written into the values. Raises UsageError on one that is used and that nobody has set."""
    texts = repr([recipe.inputs, [stage.settings for stage in recipe.stages.values()]])
    unset = [name for name, value in recipe.vars.items() if value is None and f"${{{name}}}" in texts]
    if unset:
        other = " or ".join(f"--set scale={scale}" for scale in recipe.scales)
        hint = " ".join(f"--set vars.{name}=..." for name in unset) + (f", or {other}" if other else "")
        raise UsageError(f"what the recipe needs is not set: {', '.join(unset)}", str(path), hint)
    for name, value in recipe.vars.items():
        if isinstance(value, list | dict):
            raise UsageError(f"the variable {name!r} is not one value", str(path), "write a number or a text")
    return {name: str(value) for name, value in recipe.vars.items() if value is not None}


def _fill_in(value: Any, variables: Mapping[str, str], where: str, models: Set[str] = frozenset()) -> Any:
    """models: names of inputs and stages, which are no variables."""
    if isinstance(value, list):
        return [_fill_in(v, variables, where, models) for v in value]
    if isinstance(value, dict):
        return {k: _fill_in(v, variables, where, models) for k, v in value.items()}
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> str:
        if match[1] in models and match[1] not in variables:
            stage, _, key = where.partition(".")
            raise UsageError(
                f"{match[1]!r} is a model, not a variable",
                where,
                f"name it under `uses:` of {stage}, as `{key}: {match[1]}`",
            )
        if match[1] not in variables:
            hint = f"{did_you_mean(match[1], variables)}; a new one goes under `vars:`"
            raise UsageError(f"there is no variable {match[1]!r}", where, hint)
        return variables[match[1]]

    return _VARIABLE.sub(one, value)
