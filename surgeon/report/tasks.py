"""Scores of tasks as a table: a row a metric, a column a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surgeon.report.table import EvaluateResult, MetricResult, TaskResult
from surgeon.words import ABSENT, plain, visible


@dataclass(frozen=True)
class TaskTable:
    """columns: the titles. rows: of texts; none where no task was asked."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def task_table(result: EvaluateResult, names: Sequence[str]) -> TaskTable:
    """The scores of all models, which are called `names`, in the order of their tasks.

    A score is given with its standard error, `0.4312 ± 0.0101`; an arrow says whether more or less is better.
    """
    held = [{_key(t, m): (t, m) for t in model.tasks for m in t.metrics} for model in result.models]
    rows = []
    for key in dict.fromkeys(key for found in held for key in found):
        task, metric = next(found[key] for found in held if key in found)
        arrow = {True: " ↑", False: " ↓", None: ""}[metric.higher_is_better]
        kept = "" if metric.filter == "none" else f" ({metric.filter})"
        cells = [_cell(found[key][1]) if key in found else ABSENT for found in held]
        words = visible(task.task), visible(f"{metric.metric}{kept}{arrow}")
        rows.append((*words, plain(task.shots), plain(task.documents), *cells))
    return TaskTable(("task", "metric", "shots", "questions", *names), tuple(rows))


def _key(task: TaskResult, metric: MetricResult) -> tuple[str, str, str]:
    return task.task, metric.metric, metric.filter


def _cell(metric: MetricResult) -> str:
    if metric.value is None:
        return ABSENT
    return f"{metric.value:.4f}" + ("" if metric.stderr is None else f" ± {metric.stderr:.4f}")
