"""Questions of tasks that are longer than the context, lm-eval's list of tasks, and its version in a recipe's keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_cli import surgeon
from story_task import QUESTIONS, write_task

from surgeon.measure.perplexity import evaluate
from surgeon.measure.tasks import Tasks, known_tasks
from surgeon.recipe import load
from surgeon.run import Runner

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

ASKED = """task: story_asked
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs:
  until: ["."]
  max_gen_toks: 4
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
GROUP = "group: story_both\ntask:\n  - story_end\n  - story_asked\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_task(tmp_path_factory.mktemp("lm_eval") / "tasks")
    (made / "asked.yaml").write_text(ASKED.format(path=made / "questions.jsonl"))
    (made / "both.yaml").write_text(GROUP)
    return made


def test_what_is_cut_is_counted(stories: Path, folder: Path) -> None:
    """By hand: tokens of a question and its longest answer, of which the last is not read; of one that is answered
    in words, tokens beside those of the answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories)

    def length(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    for context in (6, 7, 8, 9, 64):
        longest = [max(length(f"{q['text']} {c}") for c in q["choices"]) for q in QUESTIONS]
        ends = sum(n > context + 1 for n in longest)
        asked = sum(length(q["text"]) > context - 4 for q in QUESTIONS)
        found = evaluate([str(stories)], tasks=["story_both"], task_folder=str(folder), context=context)
        cut = {task["task"]: task["cut"] for task in found["models"][0]["tasks"]}
        assert cut == {"story_both": ends + asked, "story_end": ends, "story_asked": asked}
        assert context in (6, 64) or 0 < ends + asked < 2 * len(QUESTIONS)


def test_what_is_cut_is_told(stories: Path, folder: Path) -> None:
    words = ("evaluate", str(stories), "--tasks", "story_end", "--task-folder", str(folder), "--context", "6")
    done = surgeon(*words, "--json")
    (task,) = json.loads(done.out)["models"][0]["tasks"]
    line = f"story_end: {task['cut']} questions are more than the 6 tokens of the context, and were cut from the left"
    assert task["cut"] > 0 and done.err.count(line) == 1 and "Combined length" not in done.err
    shown = surgeon(*words, "--quiet")
    assert f"{task['cut']} questions of story_end are longer than the context" in shown.out and not shown.err


def test_the_list_is_read_once_and_again_where_a_file_has_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval.tasks

    read: list[Any] = []
    whole = lm_eval.tasks.TaskManager

    def counted(*given: Any, **more: Any) -> Any:
        read.append(more)
        return whole(*given, **more)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", counted)
    own = write_task(tmp_path / "own")
    asked = Tasks(["story_end"], str(own), defaults=False)
    known_tasks(asked)
    known_tasks(asked)
    assert len(read) == 1
    write_task(own, "second")
    known_tasks(Tasks(["second"], str(own), defaults=False))
    assert len(read) == 2


def test_a_done_stage_is_of_one_version_of_lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "title: t\ninputs: {base: x}\nstages:\n  asked: {run: evaluate, uses: {models: [base]}, with: {tasks: [a]}}\n"
        "  read: {run: evaluate, uses: {models: [base]}, with: {data: [a.jsonl]}}\n"
    )
    keys = []
    for version in ("0.4.9", "0.4.13"):
        monkeypatch.setattr("surgeon.run._version", lambda package, told=version: told)
        keys.append(Runner(load(recipe), tmp_path / "out").keys)
    assert keys[0]["asked"] != keys[1]["asked"] and keys[0]["read"] == keys[1]["read"]
