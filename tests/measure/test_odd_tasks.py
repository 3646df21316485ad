"""Tasks and models that are legal and unusual: what lm-eval would drop, change or do without a word."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from story_task import TASK, write_task

from surgeon.errors import SurgeonError, UsageError
from surgeon.measure.asking import _order, evaluate_tasks
from surgeon.measure.perplexity import evaluate
from surgeon.measure.settings import EvaluateSettings
from surgeon.measure.tasks import Tasks, check_tokenizer, known_tasks, load_tasks
from surgeon.progress import SILENT
from surgeon.report.table import read_evaluation
from surgeon.report.tasks import task_table

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
FUNCTIONS = """import numpy, torch
def scores(doc, results): return {"single": 0, "whole": 0, "tensor": 0, "table": 0}
def single(items): return numpy.float32(0.5)
def whole(items): return numpy.int64(7)
def tensor(items): return torch.tensor(1.5)
def table(items): return {"a": 1.0}
"""


class Heard:
    """Progress that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(SILENT, name)


def asked(folder: Path, *names: str, **more: Any) -> Tasks:
    return Tasks(names, str(folder), defaults=False, **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_task(tmp_path / "tasks")


@pytest.fixture(scope="module")
def loaded_model(stories: Path) -> tuple[Any, Any]:
    from surgeon.loading import load_model, load_tokenizer

    return load_model(stories, device=torch.device("cpu"), dtype=torch.float32), load_tokenizer(stories)


def test_numbers_of_numpy_and_torch_are_scores(
    folder: Path, loaded_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the task's folder stays as it was, which is an input and a part of the digest of a stage."""
    names = ("single", "whole", "tensor", "table")
    metrics = "".join(
        f"  - metric: {n}\n    aggregation: !function odd.{n}\n    higher_is_better: true\n" for n in names
    )
    head = TASK.format(name="odd", path=folder / "questions.jsonl", shots="null").partition("metric_list")[0]
    (folder / "odd.py").write_text(FUNCTIONS)
    (folder / "odd.yaml").write_text(f"{head}process_results: !function odd.scores\nmetric_list:\n{metrics}")
    before = sorted(folder.iterdir())
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    wanted, heard = asked(folder, "odd"), Heard()
    (task,) = evaluate_tasks(*loaded_model, load_tasks(wanted), wanted, heard)
    assert [m["value"] for m in task["metrics"]] == [0.5, 7.0, 1.5, None]
    assert heard.lines == ["odd: table is no number but of dict, and left empty"]
    assert sorted(folder.iterdir()) == before and not sys.dont_write_bytecode


def test_groups_come_before_what_is_in_them(folder: Path) -> None:
    write_task(folder, "other_end")
    write_task(folder, "alone")
    (folder / "inner.yaml").write_text("group: inner\ntask:\n  - story_end\n  - other_end\n")
    (folder / "outer.yaml").write_text("group: outer\ntask:\n  - inner\n")
    wanted = asked(folder, "alone", "outer")
    assert _order(wanted, load_tasks(wanted)) == ["alone", "outer", "inner", "story_end", "other_end"]
    with pytest.raises(SurgeonError, match="Duplicate task") as refusal:
        load_tasks(asked(folder, "story_end", "outer"))
    assert "not for both" in refusal.value.hint


@pytest.mark.parametrize("what", ["target_modules", "modules_to_save"])
def test_an_adapter_on_the_head_of_a_tied_model_stays_as_it_is(
    what: str, folder: Path, loaded_model: tuple[Any, Any]
) -> None:
    from copy import deepcopy

    from peft import LoraConfig, get_peft_model

    model, tokenizer = deepcopy(loaded_model[0]), loaded_model[1]
    config = LoraConfig(r=2, task_type="CAUSAL_LM", **{"target_modules": ["q_proj"]} | {what: ["lm_head"]})
    adapted = get_peft_model(model, config).eval()
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        before = adapted(input_ids=ids).logits
    wanted = asked(folder, "story_end", limit=1)
    assert evaluate_tasks(adapted, tokenizer, load_tasks(wanted), wanted)
    with torch.no_grad():
        assert torch.equal(before, adapted(input_ids=ids).logits)
    assert "tie_weights" not in vars(adapted)


def test_a_model_that_promises_no_length_is_asked_as_lm_eval_asks_it(
    folder: Path, loaded_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM

    seen: list[int] = []
    real = HFLM.loglikelihood
    monkeypatch.setattr(HFLM, "loglikelihood", lambda lm, given: seen.append(lm.max_length) or real(lm, given))
    monkeypatch.setattr("surgeon.measure.asking.context_length", lambda model: None)
    model, tokenizer = loaded_model
    wanted = asked(folder, "story_end", limit=1)
    for told in (512, 10**30):
        tokenizer.init_kwargs["model_max_length"] = told
        evaluate_tasks(model, tokenizer, load_tasks(wanted), wanted)
    assert seen == [512, 2048]


def test_what_a_later_model_lacks_is_told_before_the_first_is_asked(
    stories: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surgeon import loading

    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("the weights were read"))
    with pytest.raises(SurgeonError, match="no chat template"):
        evaluate([str(stories)], tasks=["story_end"], task_folder=str(folder), chat=True)
    tokenizer = loading.load_tokenizer(Path(shutil.copytree(stories, tmp_path / "bare")))
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(SurgeonError, match="has neither"):
        check_tokenizer(asked(folder, "story_end"), tokenizer)
    tokenizer.eos_token = "</s>"
    check_tokenizer(asked(folder, "story_end"), tokenizer)


def test_tasks_that_are_refused(stories: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="a context of 513 tokens"):
        evaluate([str(stories)], tasks=["story_end"], task_folder=str(folder), context=513)
    text = (folder / "story_end.yaml").read_text()
    (folder / "unsafe.yaml").write_text(text.replace("task: story_end", "task: unsafe\nunsafe_code: true"))
    with pytest.raises(SurgeonError, match="runs programs"):
        load_tasks(asked(folder, "unsafe"))
    head = TASK.format(name="text", path=folder / "questions.jsonl", shots="null").partition("metric_list")[0]
    (folder / "text.yaml").write_text(
        head.replace("multiple_choice", "loglikelihood_rolling").replace('doc_to_choice: "{{choices}}"\n', "")
    )
    with pytest.raises(SurgeonError, match="has no worked examples"):
        load_tasks(asked(folder, "text", shots=2))
    with pytest.raises(UsageError, match="has 5 worked examples"):
        load_tasks(asked(folder, "story_end", shots=6))
    assert load_tasks(asked(folder, "story_end", shots=4))
    with pytest.raises(UsageError, match="there is no task") as refusal:
        known_tasks(Tasks(["nothing like it at all"], str(folder)))
    assert len(refusal.value.hint) < 100
    (folder / "broken.yaml").write_text("task: broken\n  more: [")
    with pytest.raises(SurgeonError, match="a task cannot be read") as broken:
        known_tasks(asked(folder, "broken"))
    assert broken.value.where.endswith("broken.yaml")


def test_names_that_would_steer_a_terminal_are_spelt_out() -> None:
    metrics = [{"metric": "a\x1b[2J", "filter": "f\n", "value": 1.0}]
    models = [{"model": "m", "corpora": [], "tasks": [{"task": "t\x1b[31m", "metrics": metrics}]}]
    (row,) = task_table(read_evaluation({"models": models}, "here"), ["m"]).rows
    assert "".join(row).isprintable() and row[0].endswith("[31m") and len(row[0]) > len("t[31m")


def test_names_with_blanks_between_them() -> None:
    assert EvaluateSettings(models=["m"], tasks="a, b").tasks == ["a", "b"]
    assert EvaluateSettings(models=["m"], stages=["a ,b", "c"]).stages == ["a", "b", "c"]


def test_a_recipe_names_a_task_that_is_not_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surgeon import early

    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"models": ["m"], "task_folder": "~/tasks"}
    early.evaluate(EvaluateSettings(tasks=["story_end"], **given))
    with pytest.raises(UsageError, match="no task 'story_edn'"):
        early.evaluate(EvaluateSettings(tasks=["story_edn"], **given))
