"""Questions with answers: tasks of lm-eval (hellaswag, arc_easy, mmlu, ..., one's own) on a model that is loaded."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError, UsageError, did_you_mean
from surgeon.loading import context_length
from surgeon.progress import SILENT, Progress, Silent
from surgeon.settings import from_home

SEED = 1234  # of lm-eval's own command for numpy, torch and the worked examples; 0 for Python's
BOOTSTRAP = 100_000  # resamples of standard errors that have no formula, as there
UNTOLD = 10**9  # what tokenizers say that know no longest text (1e30) is above it


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
    from lm_eval.tasks import TaskManager

    folder = None if asked.folder is None else Path(from_home(asked.folder))
    for path in sorted(folder.rglob("*.yaml")) if folder is not None else []:
        try:
            yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise SurgeonError(f"a task cannot be read: {reason[:200]}", str(path), "mend or remove it") from error
    manager = TaskManager(include_path=None if folder is None else str(folder), include_defaults=asked.defaults)
    for name in asked.names:
        if name not in manager.all_tasks:
            hint = did_you_mean(name, manager.all_tasks)
            if len(hint) > 300:  # there are thousands
                hint = "`lm-eval ls tasks` lists what it has; tasks of your own: --task-folder"
            raise UsageError(f"there is no task {name!r}", "--tasks", hint)
    return manager


def load_tasks(asked: Tasks, progress: Progress = SILENT) -> Any:
    """lm-eval's tasks with their questions, ready for any number of models; reading them may download their data.

    Raises UsageError on a name that nothing has, SurgeonError where data cannot be had, on tasks that no text model is
    asked or whose answers are run as programs, and on --shots for a task that has none.
    """
    hint = "look at the task; its data come from the hub the first time"
    with _quiet(isinstance(progress, Silent)), _untouched():
        manager = known_tasks(asked)
        with _told(", ".join(asked.names), hint):
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


def evaluate_tasks(
    model: Any, tokenizer: Any, loaded: Any, asked: Tasks, progress: Progress = SILENT
) -> list[dict[str, Any]]:
    """[{"task", "version", "shots", "documents", "metrics": [{"metric", "filter", "value", "stderr",
    "higher_is_better"}]}], groups before their tasks, of a causal model; with the seeds of lm-eval's own command.

    Scores are those of lm-eval (its chat template, its tokenisation of context and answer, its metrics); one that is
    no number is None, and told. What it writes to stdout goes to stderr, and nowhere where `progress` is silent.
    Raises SurgeonError where it fails.
    """
    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    with _quiet(isinstance(progress, Silent)), _told(", ".join(loaded["tasks"]), "look at the task and at the model"):
        length = asked.context
        if length is None and context_length(model) is None:  # lm-eval's rule, which our loading of tokenizers hides
            told = tokenizer.init_kwargs.get("model_max_length")
            length = int(told) if told and told < UNTOLD else HFLM._DEFAULT_MAX_LENGTH
        # that the model is loaded already is warned of in many words
        with _no_warnings("lm_eval.models.huggingface"), _as_tied(model):
            wrapped = HFLM(
                pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=asked.batch, max_length=length
            )
        random.seed(0)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(seed=SEED)
        found = evaluate(
            lm=wrapped, task_dict=loaded, limit=asked.limit, bootstrap_iters=BOOTSTRAP, log_samples=False,
            apply_chat_template=asked.chat, fewshot_as_multiturn=asked.chat,
        )  # fmt: skip
    assert found is not None  # of the first process alone, and this is one
    return [_result(name, found["results"][name], found, progress) for name in _order(asked, loaded)]


def _order(asked: Tasks, loaded: Any) -> list[str]:
    """Tasks and groups as they were asked for, a group before what is in it."""
    inside: Mapping[str, Sequence[str]] = loaded["group_map"]
    order: dict[str, None] = {}

    def add(name: str) -> None:
        order[name] = None
        for child in inside.get(name, ()):
            add(child)

    for name in (*asked.names, *loaded["tasks"]):  # a tag is none of them; its tasks are
        if name in inside or name in loaded["tasks"]:
            add(name)
    return list(order)


def _result(name: str, values: Mapping[str, Any], found: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """One task of lm-eval's results, whose keys are `METRIC,FILTER` and `METRIC_stderr,FILTER`."""
    better = found["higher_is_better"].get(name, {})
    metrics = []
    for key, value in values.items():
        metric, comma, kept = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            if value != "N/A" and _number(value) is None:
                progress.say(f"{name}: {metric} is no number but of {type(value).__name__}, and left empty")
            error = values.get(f"{metric}_stderr,{kept}")
            metrics.append(
                {"metric": metric, "filter": kept, "value": _number(value), "stderr": _number(error),
                 "higher_is_better": better.get(metric)}
            )  # fmt: skip
    count = found["n-samples"].get(name, {}).get("effective")
    return {"task": name, "version": found["versions"].get(name), "shots": found["n-shot"].get(name),
            "documents": count, "metrics": metrics}  # fmt: skip


def _number(value: Any) -> float | None:
    """None where lm-eval writes "N/A", and of what is no number; numpy's and torch's are some."""
    held = value.item() if getattr(value, "shape", None) == () else value
    return float(held) if isinstance(held, int | float) else None


@contextlib.contextmanager
def _told(tasks: str, hint: str) -> Iterator[None]:
    try:
        yield
    except SurgeonError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if reason.startswith("Duplicate task"):
            hint = "ask for the group or for the task, not for both"
        raise SurgeonError(f"lm-eval fails: {reason[:300]}", f"--tasks {tasks}", hint) from error


@contextlib.contextmanager
def _as_tied(model: Any) -> Iterator[None]:
    """Without lm-eval's tying of weights, which a loaded model has behind it, and which fails or undoes what an
    adapter put in the place of one of the two matrices."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights


@contextlib.contextmanager
def _untouched() -> Iterator[None]:
    """Python writes no __pycache__ beside the functions of a task: its folder is an input."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextlib.contextmanager
def _no_warnings(logger: str) -> Iterator[None]:
    held = logging.getLogger(logger)
    before = held.level
    held.setLevel(logging.ERROR)
    try:
        yield
    finally:
        held.setLevel(before)


@contextlib.contextmanager
def _quiet(silent: bool) -> Iterator[None]:
    """lm-eval draws bars and prints, whoever calls it."""
    with contextlib.redirect_stdout(io.StringIO() if silent else sys.stderr):
        if not silent:
            yield
            return
        with contextlib.redirect_stderr(io.StringIO()):
            yield
