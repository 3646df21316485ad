"""Carrying out a recipe: a finished stage is not done again, a killed run goes on where it was.

The folder of a run holds stages/NAME-KEY (outputs), results/NAME-KEY.json, run.json (all of it), report.html and
report.json. KEY is the digest of a stage's operation, settings, input files and the keys of the stages it uses.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from surgeon import __version__
from surgeon.checkpoint.commit import write_atomically
from surgeon.checkpoint.config_json import dump_json, read_json_object
from surgeon.checkpoint.digest import file_digest, json_digest
from surgeon.checkpoint.lineage import read_lineage
from surgeon.early import check_stages
from surgeon.early_models import check_models
from surgeon.errors import SurgeonError
from surgeon.model_ref import halves
from surgeon.operations import operation, perform
from surgeon.progress import SILENT, Progress
from surgeon.recipe import Loaded, Stage, stage_settings, used
from surgeon.settings import from_home, resolve

FORMAT = 1
# PATH, NAME=PATH, and either with a weight behind it; a weight of a model may be negative, or vary (0.5,attention:0,1)
_PATHS = (
    r"(?P<path>.+)",
    r"[^/=]+=(?P<path>.+)",
    r"([^/=]+=)?(?P<path>.+?)[:=]\d+(\.\d+)?([eE][+-]?\d+)?",
    r"(?P<path>.+)=[^/=]*",
)
_OWN = re.compile(r"(?P<module>[A-Za-z_][\w.]*):[A-Za-z_]\w*(:|$)")  # module:function
_METHOD = re.compile(r"(?P<name>[^/=]+?:)(?P<options>\w+=.*)")  # NAME:OPTION=VALUE,...


@dataclass
class Runner:
    """One recipe in one folder."""

    loaded: Loaded
    folder: Path
    progress: Progress = SILENT
    keys: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, stage in self.loaded.recipe.stages.items():
            self.keys[name] = self._key(stage)

    def plan(self) -> list[dict[str, Any]]:
        """The stages with their settings and their state: done, begun (a training to resume), or to do."""
        self._check(force=False)
        return [
            {
                "name": name,
                "operation": stage.run,
                "key": self.keys[name],
                "state": self._state(name, stage),
                "settings": stage_settings(stage, lambda used: used),
            }
            for name, stage in self.loaded.recipe.stages.items()
        ]

    def run(self, threads: int | None = None, force: bool = False) -> dict[str, Any]:
        """Do what is left to do (force: everything, anew); gives the content of run.json."""
        self._check_apart()
        self._check(force)
        (self.folder / "stages").mkdir(parents=True, exist_ok=True)
        (self.folder / "results").mkdir(exist_ok=True)
        with _locked(self.folder):
            records = []
            with self.progress.task(self.loaded.recipe.title, len(self.keys), "stages") as advance:
                for name, stage in self.loaded.recipe.stages.items():
                    records.append(self._stage(name, stage, threads, force))
                    self._write(records)
                    advance(1)
            return self._write(records)

    def _check(self, force: bool) -> None:
        """Refuse what can be said before the first stage: the last may be days away. What is done already may have
        asked for a device that is not here."""
        stages = self.loaded.recipe.stages.items()
        check_stages(self.loaded, [n for n, stage in stages if not force and self._state(n, stage) == "done"])
        check_models(self.loaded, self._out)

    def _check_apart(self) -> None:
        """Refuse a folder inside an input: not even a folder of ours is made there."""
        place = self.folder.resolve()
        for text in self.loaded.recipe.inputs.values():
            for path in filter(_is_there, {text, *(halves(text) or ())}):
                if place.is_relative_to(Path(path).resolve()):
                    raise SurgeonError(
                        "the run's folder lies inside an input, which is never changed",
                        f"{self.folder} and {path}",
                        "give another --out",
                    )

    def _write(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        recipe = self.loaded.recipe
        value = {
            "format": FORMAT,
            "recipe": self.loaded.name,
            "scale": self.loaded.scale,
            "title": recipe.title,
            "about": recipe.about,
            "surgeon": __version__,
            "stages": records,
        }
        write_atomically(self.folder / "run.json", dump_json(value))
        return value

    def _stage(self, name: str, stage: Stage, threads: int | None, force: bool) -> dict[str, Any]:
        state = "to do" if force else self._state(name, stage)
        result_path = self._result_path(name)
        if state == "done":
            self.progress.say(f"{name}: done before")
            return _read(result_path) if result_path.is_file() else self._recovered(name, stage)
        self.progress.say(f"{name}: {stage.run}" + (" (resuming)" if state == "begun" else ""))
        started = time.perf_counter()
        settings = self._settings(name, stage)
        if state == "begun":
            settings["resume"] = True
        resolved, _ = resolve(operation(stage.run).settings_class(), recipe=settings)
        result = perform(stage.run, resolved, force=force, threads=threads, progress=self.progress)
        record = self._record(name, stage, round(time.perf_counter() - started, 2), self._named(result))
        write_atomically(result_path, dump_json(record))
        return record

    def _record(self, name: str, stage: Stage, seconds: float | None, result: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "operation": stage.run,
            "key": self.keys[name],
            "out": f"stages/{self._folder_name(name)}" if _has_out(stage) else None,
            "seconds": seconds,
            "settings": stage.settings | {k: v for k, v in stage.uses.items() if k not in stage.settings},
            "uses": stage.uses,
            "result": result,
        }

    def _recovered(self, name: str, stage: Stage) -> dict[str, Any]:
        """Killed between the output's commit and the result's: the output is whole and says what made it."""
        lineage = read_lineage(self._out(name))
        plan = None if lineage is None else lineage.plan
        return self._record(name, stage, None, {"out": str(self._out(name)), "plan_digest": plan, "recovered": True})

    def _state(self, name: str, stage: Stage) -> str:
        if _has_out(stage):
            if self._out(name).is_dir():
                return "done"
            return "begun" if self._out(name).with_name(self._out(name).name + ".run").is_dir() else "to do"
        return "done" if self._result_path(name).is_file() else "to do"

    def _settings(self, name: str, stage: Stage) -> dict[str, Any]:
        settings = stage_settings(stage, self._place)
        return settings | ({"out": str(self._out(name))} if _has_out(stage) else {})

    def _named(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result with models called by the names of the recipe."""
        names = {self._place(n): n for n in (*self.loaded.recipe.inputs, *self.keys)}
        for model in result.get("models", []):
            if isinstance(model, dict):
                model["model"] = names.get(model["model"], model["model"])
        return result

    def _place(self, name: str) -> str:
        inputs = self.loaded.recipe.inputs
        return inputs[name] if name in inputs else str(self._out(name))

    def _folder_name(self, name: str) -> str:
        return f"{name}-{self.keys[name][:12]}"

    def _out(self, name: str) -> Path:
        return self.folder / "stages" / self._folder_name(name)

    def _result_path(self, name: str) -> Path:
        return self.folder / "results" / f"{self._folder_name(name)}.json"

    def _key(self, stage: Stage) -> str:
        inputs = self.loaded.recipe.inputs
        used_keys = {n: fingerprint(inputs[n]) if n in inputs else self.keys[n] for n in used(stage)}
        value = {
            "operation": stage.run,
            "settings": fingerprint(stage.settings),
            "uses": stage.uses,
            "used": used_keys,
            "surgeon": __version__,
        }
        if stage.run == "evaluate" and stage.settings.get("tasks"):  # its questions and scores are lm-eval's
            value["lm_eval"] = _version("lm_eval")
        return json_digest(value).removeprefix("sha256:")


def fingerprint(value: Any) -> Any:
    """Settings with every path that exists replaced by the digest of what is there (`NAME=PATH:WEIGHT`,
    `MODEL+ADAPTER=WEIGHT`, `METHOD:OPTION=PATH,...` included), and behind a method of a person's own the digest of its
    file (`module:function`; not of what that imports)."""
    if isinstance(value, dict):
        return {k: fingerprint(v) for k, v in value.items()}
    if isinstance(value, list):
        return [fingerprint(v) for v in value]
    if not isinstance(value, str):
        return value
    for match in filter(None, (re.fullmatch(pattern, value) for pattern in _PATHS)):
        for parts in ((match["path"],), halves(match["path"]) or (match["path"],)):
            # relative paths too: the stage will read them from the same folder
            if all(map(_is_there, parts)):
                digests = "+".join(_path_digest(Path(from_home(part))) for part in parts)
                return value[: match.start("path")] + digests + value[match.end("path") :]
    own = _OWN.match(value)
    code = None if own is None else _code(own["module"])
    if code is not None:
        return f"{value} {code}"
    method = _METHOD.fullmatch(value)
    if method is not None:
        options = (part.partition("=") for part in method["options"].split(","))
        return method["name"] + ",".join(name + is_given + fingerprint(of) for name, is_given, of in options)
    return value


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # told when the stage is checked
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except SurgeonError as error:
        raise SurgeonError(error.problem, error.where, "remove it, and run the recipe again") from error


def _code(module: str) -> str | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # it is a word of something else
        return None
    return file_digest(Path(spec.origin)) if spec is not None and spec.has_location and spec.origin else None


def _is_there(text: str) -> bool:
    try:
        return bool(text) and Path(from_home(text)).exists()
    except OSError:  # a text that is no path: longer than a name may be
        return False


def _path_digest(path: Path) -> str:
    if path.is_file():
        return file_digest(path)
    return json_digest({str(p.relative_to(path)): file_digest(p) for p in sorted(_files_below(path, ()))})


def _files_below(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """Every file, also of folders that are links, but for one that leads back to a folder it is in."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_below(path, (*above, real))
        elif path.is_file():
            yield path


def _has_out(stage: Stage) -> bool:
    return "out" in operation(stage.run).settings_class().model_fields


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SurgeonError(
                "another process is running this recipe here", str(folder), "wait for it, or give another --out"
            ) from error
        yield
