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
from surgeon.progress import SILENT, Progress, Silent

SEED = 1234  # of lm-eval's own command for numpy, torch and the worked examples; 0 for Python's
BOOTSTRAP = 100_000  # resamples of standard errors that have no formula, as there


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
    if asked.folder is not None and not Path(asked.folder).is_dir():
        raise SurgeonError("there is no such folder", asked.folder, "give a folder with YAML files of tasks")
    check_installed()


def check_installed() -> None:
    """Raise SurgeonError where lm-eval is not there."""
    if importlib.util.find_spec("lm_eval") is None:
        raise SurgeonError("tasks need lm-eval, which is not installed", "--tasks", "pip install 'surgeon[tasks]'")


def load_tasks(asked: Tasks, progress: Progress = SILENT) -> Any:
    """lm-eval's tasks with their questions, ready for any number of models; reading them may download their data.

    Raises UsageError on a name that nothing has, SurgeonError where lm-eval is not there, where data cannot be had,
    and on --shots for a task that says itself that it has none.
    """
    from lm_eval.tasks import TaskManager

    silent = isinstance(progress, Silent)
    manager = TaskManager(include_path=asked.folder, include_defaults=asked.defaults)
    for name in asked.names:
        if name not in manager.all_tasks:
            raise UsageError(f"there is no task {name!r}", "--tasks", did_you_mean(name, manager.all_tasks))
    with _quiet(silent), _told(", ".join(asked.names), "it needs the hub the first time"):
        loaded = manager.load(list(asked.names))
    for name, task in loaded["tasks"].items():
        own = task.get_config("num_fewshot")
        if asked.shots is not None and own == 0 != asked.shots:
            raise SurgeonError(f"the task {name} says that it has no worked examples", "--shots", "leave it out there")
        task.set_config(key="num_fewshot", value=(own or 0) if asked.shots is None else asked.shots)
    return loaded


def evaluate_tasks(
    model: Any, tokenizer: Any, loaded: Any, asked: Tasks, progress: Progress = SILENT
) -> list[dict[str, Any]]:
    """[{"task", "version", "shots", "documents", "metrics": [{"metric", "filter", "value", "stderr",
    "higher_is_better"}]}], groups before their tasks, of a causal model; with the seeds of lm-eval's own command.

    Scores are those of lm-eval (its chat template, its tokenisation of context and answer, its metrics). What it
    writes to stdout goes to stderr, and nowhere where `progress` is silent. Raises SurgeonError where it fails.
    """
    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    with _quiet(isinstance(progress, Silent)), _told(", ".join(loaded["tasks"]), "look at the task and at the model"):
        with _no_warnings("lm_eval.models.huggingface"):  # that the model is loaded already, in many words
            wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=asked.batch, max_length=asked.context)
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
    return [_result(name, values, found) for name, values in found["results"].items()]


def _result(name: str, values: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """One task of lm-eval's results, whose keys are `METRIC,FILTER` and `METRIC_stderr,FILTER`."""
    better = found["higher_is_better"].get(name, {})
    metrics = []
    for key, value in values.items():
        metric, comma, kept = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            error = values.get(f"{metric}_stderr,{kept}")
            metrics.append(
                {"metric": metric, "filter": kept, "value": _number(value), "stderr": _number(error),
                 "higher_is_better": better.get(metric)}
            )  # fmt: skip
    count = found["n-samples"].get(name, {}).get("effective")
    return {"task": name, "version": found["versions"].get(name), "shots": found["n-shot"].get(name),
            "documents": count, "metrics": metrics}  # fmt: skip


def _number(value: Any) -> float | None:
    """None where lm-eval writes "N/A"."""
    return float(value) if isinstance(value, int | float) else None


@contextlib.contextmanager
def _told(tasks: str, hint: str) -> Iterator[None]:
    try:
        yield
    except SurgeonError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SurgeonError(f"lm-eval fails: {reason[:300]}", f"--tasks {tasks}", hint) from error


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
