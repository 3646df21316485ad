"""Tasks of lm-eval: its own numbers, on a model as evaluate opens it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cli import surgeon
from story_task import QUESTIONS, write_task

from surgeon.errors import SurgeonError, UsageError
from surgeon.measure.perplexity import evaluate
from surgeon.measure.tasks import Tasks, check_tasks, load_tasks
from surgeon.report.table import read_evaluation
from surgeon.report.tasks import task_table

pytest.importorskip("lm_eval", reason="lm-eval is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_task(tmp_path_factory.mktemp("lm_eval") / "tasks")
    return write_task(made, "no_shots", "0")


@pytest.fixture(scope="module")
def scores(stories: Path, folder: Path) -> dict[str, Any]:
    return evaluate([str(stories)], tasks=["story_end"], task_folder=str(folder))


def test_the_answer_with_the_highest_probability_is_taken(stories: Path, scores: dict[str, Any]) -> None:
    """By hand: log-probabilities of the tokens of each answer behind the question."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(stories), AutoTokenizer.from_pretrained(stories)
    right = 0
    for question in QUESTIONS:
        start = len(tokenizer(question["text"])["input_ids"])
        logs = []
        for choice in question["choices"]:
            ids = torch.tensor([tokenizer(f"{question['text']} {choice}")["input_ids"]])
            with torch.inference_mode():
                found = model(ids).logits[0].double().log_softmax(-1)
            logs.append(sum(float(found[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])))
        right += max(range(len(logs)), key=logs.__getitem__) == question["answer"]
    (task,) = scores["models"][0]["tasks"]
    assert task["task"] == "story_end" and task["documents"] == len(QUESTIONS) and task["shots"] == 0
    assert task["version"] == 1.0
    acc = next(m for m in task["metrics"] if m["metric"] == "acc")
    assert acc["value"] == right / len(QUESTIONS) and acc["higher_is_better"] is True
    assert 0 < right < len(QUESTIONS)


def test_the_numbers_are_those_of_lm_evals_own_command(stories: Path, folder: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    theirs = simple_evaluate(
        "hf", {"pretrained": str(stories), "dtype": "float32"}, ["story_end"], num_fewshot=2, limit=4, device="cpu",
        batch_size=8, task_manager=manager, log_samples=False,
    )  # fmt: skip
    ours = evaluate([str(stories)], tasks=["story_end"], task_folder=str(folder), shots=2, limit=4)
    (task,) = ours["models"][0]["tasks"]
    assert (task["shots"], task["documents"]) == (2, 4)
    values = theirs["results"]["story_end"]
    for metric in task["metrics"]:
        assert metric["value"] == values[f"{metric['metric']},none"]
        assert metric["stderr"] == values[f"{metric['metric']}_stderr,none"]


def test_the_table(scores: dict[str, Any]) -> None:
    second = {"model": "b", "corpora": []}
    table = task_table(read_evaluation({"models": [*scores["models"], second]}, "here"), ["a", "b"])
    assert table.columns == ("task", "metric", "shots", "questions", "a", "b")
    assert [row[:4] for row in table.rows] == [
        ("story_end", "acc ↑", "0", "5"), ("story_end", "acc_norm ↑", "0", "5"),
    ]  # fmt: skip
    assert all(" ± " in row[4] and row[5] == "–" for row in table.rows)


def test_the_command_with_an_adapter_and_corpora(stories: Path, folder: Path, tmp_path: Path) -> None:
    words = ("attach-adapter", str(stories), str(tmp_path / "adapter"), "--rank", "2", "--quiet")
    assert surgeon(*words).code == 0
    given = ("--tasks", "story_end", "--task-folder", str(folder), "--limit", "2", "--quiet")
    corpus = str(stories.parent / "general.valid.jsonl")
    both = (str(stories), f"{stories}+{tmp_path / 'adapter'}")
    done = surgeon("evaluate", *both, "--data", f"general={corpus}", "--tokens", "200", *given, "--json")
    assert done.code == 0 and done.err == ""
    plain, adapted = json.loads(done.out)["models"]
    assert plain["tasks"] == adapted["tasks"] and plain["corpora"] and adapted["corpora"]
    shown = surgeon("evaluate", str(stories), *given)
    assert shown.code == 0 and "story_end" in shown.out and "corpus" not in shown.out


def test_what_is_refused(stories: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no task 'story_edn'") as refusal:
        load_tasks(Tasks(["story_edn"], str(folder), defaults=False))
    assert "story_end" in refusal.value.hint
    with pytest.raises(SurgeonError, match="has no worked examples"):
        load_tasks(Tasks(["no_shots"], str(folder), shots=2, defaults=False))
    assert load_tasks(Tasks(["no_shots"], str(folder), shots=0, defaults=False))
    (tmp_path / "broken").mkdir()
    write_task(tmp_path / "broken", "elsewhere")
    (tmp_path / "broken" / "questions.jsonl").unlink()
    with pytest.raises(SurgeonError, match="lm-eval fails"):
        load_tasks(Tasks(["elsewhere"], str(tmp_path / "broken"), defaults=False))
    for asked, said in (
        (Tasks([], shots=1), "--shots is of --tasks"),
        (Tasks([], chat=True), "--chat is of --tasks"),
        (Tasks(["a", "a"]), "asked for twice"),
        (Tasks(["a"], str(tmp_path / "absent")), "no such folder"),
    ):
        with pytest.raises(SurgeonError, match=said):
            check_tasks(asked)
    with pytest.raises(UsageError, match="--by-position is of corpora"):
        evaluate([str(stories)], tasks=["story_end"], task_folder=str(folder), by_position=True)


def test_without_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SurgeonError, match="lm-eval, which is not installed") as refusal:
        check_tasks(Tasks(["hellaswag"]))
    assert refusal.value.hint == "pip install 'surgeon[tasks]'"
