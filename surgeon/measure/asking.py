"""A loaded model is asked the questions of tasks; the scores are lm-eval's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from surgeon.loading import context_length
from surgeon.measure.cut_contexts import Cut, counted
from surgeon.measure.lm_eval_calls import no_warnings, quiet, told
from surgeon.measure.tasks import Tasks
from surgeon.progress import SILENT, Progress, Silent

SEED = 1234  # of lm-eval's own command for numpy, torch and the worked examples; 0 for Python's
BOOTSTRAP = 100_000  # resamples of standard errors that have no formula, as there
UNTOLD = 10**9  # what tokenizers say that know no longest text (1e30) is above it


def evaluate_tasks(
    model: Any, tokenizer: Any, loaded: Any, asked: Tasks, progress: Progress = SILENT
) -> list[dict[str, Any]]:
    """[{"task", "version", "shots", "documents", "metrics": [{"metric", "filter", "value", "stderr",
    "higher_is_better"}], "cut"}], groups before their tasks, of a causal model; with the seeds of lm-eval's own
    command. cut: how many of its questions were longer than the context, and lost their beginning; told, too.

    Scores are those of lm-eval (its chat template, its tokenisation of context and answer, its metrics); one that is
    no number is None, and told. What it writes to stdout goes to stderr, and nowhere where `progress` is silent.
    Raises SurgeonError where it fails.
    """
    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    with quiet(isinstance(progress, Silent)), told(", ".join(loaded["tasks"]), "look at the task and at the model"):
        length = asked.context
        if length is None and context_length(model) is None:  # lm-eval's rule, which our loading of tokenizers hides
            longest = tokenizer.init_kwargs.get("model_max_length")
            length = int(longest) if longest and longest < UNTOLD else HFLM._DEFAULT_MAX_LENGTH
        # that the model is loaded already is warned of in many words
        with no_warnings("lm_eval.models.huggingface"), _as_tied(model):
            wrapped = HFLM(
                pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=asked.batch, max_length=length
            )
        random.seed(0)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(seed=SEED)
        with counted(wrapped) as cut:
            found = evaluate(
                lm=wrapped, task_dict=loaded, limit=asked.limit, bootstrap_iters=BOOTSTRAP, log_samples=False,
                apply_chat_template=asked.chat, fewshot_as_multiturn=asked.chat,
            )  # fmt: skip
    assert found is not None  # of the first process alone, and this is one
    for name, questions in cut.items():
        longest = f"more than the {wrapped.max_length:,} tokens of the context"
        progress.say(f"{name}: {len(questions):,} questions are {longest}, and were cut from the left")
    inside = loaded["group_map"]
    return [
        _result(name, found["results"][name], found, progress) | {"cut": _num_cut(name, inside, cut)}
        for name in _order(asked, loaded)
    ]


def _num_cut(name: str, inside: Mapping[str, Sequence[str]], cut: Cut) -> int:
    """Of a task, or of all that are in a group."""
    return len(cut.get(name, ())) + sum(_num_cut(child, inside, cut) for child in inside.get(name, ()))


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
def _as_tied(model: Any) -> Iterator[None]:
    """Without lm-eval's tying of weights, which a loaded model has behind it, and which fails or undoes what an
    adapter put in the place of one of the two matrices."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights
