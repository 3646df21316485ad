"""Questions with answers: the tasks of lm-eval (hellaswag, arc_easy, mmlu, ...) and one's own, read and checked."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError, UsageError, did_you_mean
from surgeon.measure.lm_eval_calls import quiet, told, untouched
from surgeon.progress import SILENT, Progress, Silent
from surgeon.settings import from_home


@dataclass(frozen=True)
class Tasks:
    """What is asked. names: tasks, groups and tags. folder: YAML of one's own beside lm-eval's. shots: worked examples
    before each question (None: each task's own number). limit: the first questions of each task. batch: questions at a
    time. chat: in the model's chat template, worked examples as turns of it. context: tokens (None: the model's).
    defaults: whether lm-eval's own tasks are known, whose list takes seconds to read."""

    names: Sequence[str]
    folder: str | None = None
    shots: int | None = None
    limit: int | None = None
    batch: int = 8
    chat: bool = False
    context: int | None = None
    defaults: bool = True


def check_tasks(asked: Tasks) -> None:
    """Raise what can be said before anything is read: settings of tasks where there are none, a task twice, a folder
    that is not there, and that lm-eval is not there."""
    if not asked.names:
        given = {"--task-folder": asked.folder, "--shots": asked.shots, "--limit": asked.limit, "--chat": asked.chat}
        for flag, value in given.items():
            if value not in (None, False):
                raise UsageError(f"{flag} is of --tasks", flag, "add --tasks NAME")
        return
    for name in asked.names:
        if list(asked.names).count(name) > 1:
            raise UsageError(f"the task {name} is asked for twice", "--tasks", "name it once")
    if asked.folder is not None and not Path(from_home(asked.folder)).is_dir():
        raise SurgeonError("there is no such folder", asked.folder, "give a folder with YAML files of tasks")
    check_installed()


def check_installed() -> None:
    """Raise SurgeonError where lm-eval is not there."""
    if importlib.util.find_spec("lm_eval") is None:
        raise SurgeonError("tasks need lm-eval, which is not installed", "--tasks", "pip install 'surgeon[tasks]'")


def known_tasks(asked: Tasks) -> Any:
    """lm-eval's list of tasks. Raises UsageError on a name that nothing has, SurgeonError on a file of the folder that
    is no YAML, which lm-eval leaves out without a word."""
    import yaml

    folder = None if asked.folder is None else Path(from_home(asked.folder))
    for path in sorted(folder.rglob("*.yaml")) if folder is not None else []:
        try:
            yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise SurgeonError(f"a task cannot be read: {reason[:200]}", str(path), "mend or remove it") from error
    manager = _manager(None if folder is None else str(folder.absolute()), _state(folder), asked.defaults)
    for name in asked.names:
        if name not in manager.all_tasks:
            hint = did_you_mean(name, manager.all_tasks)
            if len(hint) > 300:  # there are thousands
                hint = "`lm-eval ls tasks` lists what it has; tasks of your own: --task-folder"
            raise UsageError(f"there is no task {name!r}", "--tasks", hint)
    return manager


def _state(folder: Path | None) -> tuple[tuple[str, int, int], ...]:
    """What tells the folder from itself after a file of it has changed."""
    found = [] if folder is None else [(str(path), path.stat()) for path in sorted(folder.rglob("*.yaml"))]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


@lru_cache(maxsize=2)
def _manager(folder: str | None, state: tuple[tuple[str, int, int], ...], defaults: bool) -> Any:
    """lm-eval's list, which takes seconds to read: once in a process, for all stages of a recipe."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=defaults)


def load_tasks(asked: Tasks, progress: Progress = SILENT) -> Any:
    """lm-eval's tasks with their questions, ready for any number of models; reading them may download their data.

    Raises UsageError on a name that nothing has, SurgeonError where data cannot be had, on tasks that no text model is
    asked or whose answers are run as programs, and on --shots for a task that has none.
    """
    hint = "look at the task; its data come from the hub the first time"
    with quiet(isinstance(progress, Silent)), untouched():
        manager = known_tasks(asked)
        with told(", ".join(asked.names), hint):
            loaded = manager.load(list(asked.names))
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise SurgeonError(f"the task {name} runs programs that the model writes", "--tasks", "leave it out")
        if getattr(task, "MULTIMODAL", False):
            raise SurgeonError(f"the task {name} asks about pictures or sounds", "--tasks", "leave it out")
        own = task.get_config("num_fewshot")
        if asked.shots and (own == 0 or task.get_config("output_type") == "loglikelihood_rolling"):
            raise SurgeonError(f"the task {name} says that it has no worked examples", "--shots", "leave it out there")
        examples = getattr(getattr(task, "sampler", None), "df", None)
        if asked.shots and examples is not None and asked.shots > len(examples):
            there = f"give at most {len(examples)}"
            raise UsageError(f"the task {name} has {len(examples)} worked examples", f"--shots {asked.shots}", there)
        task.set_config(key="num_fewshot", value=(own or 0) if asked.shots is None else asked.shots)
    return loaded


def check_tokenizer(asked: Tasks, tokenizer: Any) -> None:
    """Raise SurgeonError where a tokenizer lacks what questions need, before any model is asked."""
    where = str(tokenizer.name_or_path)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise SurgeonError(
            "lm-eval puts the first or the last token of a text before questions, and the tokenizer has neither",
            where,
            "name a bos_token or an eos_token in tokenizer_config.json",
        )
    if asked.chat:
        try:
            tokenizer.get_chat_template()
        except ValueError as error:
            raise SurgeonError("the tokenizer has no chat template", where, "leave --chat out") from error
