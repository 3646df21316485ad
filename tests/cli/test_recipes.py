"""Recipes: those that ship are valid, a finished run is not done again, a killed one goes on, changes are noticed."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import warm
from run_cli import surgeon

from surgeon.errors import UsageError
from surgeon.recipe import find, load, recipes_dir
from surgeon.run import Runner, fingerprint

SMALL_SETTINGS = (
    "instruct.tokens=8k", "instruct.eval-tokens=1k", "domain.tokens=8k", "domain.eval-tokens=1k", "wide.add=16",
    "table.tokens=1k",
)  # fmt: skip
SMALL = tuple(word for setting in SMALL_SETTINGS for word in ("--set", setting))


def test_the_quickstart_runs_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes of papers: tests/recipes."""
    path = recipes_dir() / "quickstart.yaml"
    monkeypatch.chdir(tmp_path)
    done = surgeon("run", str(path), *SMALL, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert Path(result["report"]).is_file() and Path(result["numbers"]).is_file()
    times = {s: p.stat().st_mtime_ns for s, p in ((q.name, q) for q in (tmp_path / "runs").rglob("*.safetensors"))}
    started = time.perf_counter()
    again = surgeon("run", str(path), *SMALL, "--json")
    assert again.code == 0 and time.perf_counter() - started < 15
    assert json.loads(again.out)["stages"] == result["stages"]
    assert times == {q.name: q.stat().st_mtime_ns for q in (tmp_path / "runs").rglob("*.safetensors")}
    table = next(s for s in result["stages"] if s["operation"] == "evaluate")["result"]
    assert [m["model"] for m in table["models"]] == ["base", "instruct", "domain", "merged"]
    # --force does every stage anew, and the same recipe gives the same bytes
    whole = {p.relative_to(tmp_path): p.read_bytes() for p in (tmp_path / "runs").rglob("*.safetensors")}
    forced = surgeon("run", str(path), *SMALL, "--force", "--json")
    assert forced.code == 0, forced.err
    assert {p.relative_to(tmp_path): p.read_bytes() for p in (tmp_path / "runs").rglob("*.safetensors")} == whole
    # another setting of a late stage leaves the earlier ones as they are
    changed = json.loads(surgeon("run", str(path), *SMALL, "--set", "merged.scale=0.5", "--dry-run", "--json").out)
    states = {s["name"]: s["state"] for s in changed["stages"]}
    assert states["domain"] == "done" and states["merged"] == "to do" and states["table"] == "to do"


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed in the middle of a training; the resumed run gives the bytes of one that was never killed."""
    words = ["run", "quickstart", *SMALL, "--set", "domain.save-every=2", "--set", "domain.batch-tokens=512"]

    def start(out: str) -> warm.Process:
        return warm.Process(["-m", "surgeon", *words, "--out", str(tmp_path / out)])

    process = start("killed")
    deadline = time.monotonic() + 240
    while not list((tmp_path / "killed").glob("stages/domain-*.run/state/*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not [p for p in (tmp_path / "killed").glob("stages/domain-*") if not p.name.endswith(".run")]
    assert list((tmp_path / "killed").glob("stages/wide-*"))
    process = start("killed")
    output = "".join(process.communicate())
    assert process.returncode == 0 and "resuming" in output and "wide: done before" in output, output
    process = start("whole")
    assert process.wait() == 0
    for name in ("domain", "merged"):
        killed, whole = (next((tmp_path / o).glob(f"stages/{name}-*/model.safetensors")) for o in ("killed", "whole"))
        assert killed.read_bytes() == whole.read_bytes()


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"

    def message(text: str, *sets: str) -> str:
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            load(path, sets)
        return f"{caught.value.problem} {caught.value.hint}"

    stage = "title: t\ninputs: {base: m}\nstages:\n  deep: {run: expand-layers, uses: {model: base}, with: {add: 1}}\n"
    assert "stages" in message("title: t\n")
    assert "nowhere" in message(stage.replace("model: base", "model: nowhere"))
    assert "did you mean 'expand-layers'" in message(stage.replace("expand-layers", "expand-layer"))
    assert "did you mean 'add'" in message(stage.replace("add: 1", "ad: 1"))
    assert "variable" in message(stage.replace("add: 1", "add: '${much}'"))
    assert "twice" in message(stage.replace("deep:", "base:"))
    assert "did you mean 'deep'" in message(stage, "deeep.add=2")
    assert "YAML" in message("a: [")
    with pytest.raises(UsageError):
        find("no-such-recipe")
    path.write_text(stage)
    assert load(path, ["deep.add=3"]).recipe.stages["deep"].settings == {"add": 3}


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = surgeon("run", "quickstart", "--out", str(tmp_path / "run"))
    assert done.code == 1 and "another process" in done.err


def test_keys_follow_the_inputs_bytes(tmp_path: Path) -> None:
    done = surgeon("recipes", "cp", "quickstart", str(tmp_path / "mine"))
    assert done.code == 0
    path = tmp_path / "mine" / "quickstart.yaml"
    before = Runner(load(path), tmp_path / "run").keys
    assert before == Runner(load(find("quickstart")), tmp_path / "elsewhere").keys
    corpus = tmp_path / "mine" / "quickstart" / "domain.train.jsonl"
    corpus.write_text(corpus.read_text() + '{"text": "more"}\n')
    after = Runner(load(path), tmp_path / "run").keys
    assert [n for n in before if before[n] != after[n]] == ["wide", "domain", "merged", "table"]


def test_keys_follow_relative_paths_and_every_way_to_write_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, folder = tmp_path / "text.jsonl", tmp_path / "model"
    folder.mkdir()
    values = [
        "text.jsonl",
        "new.v1=text.jsonl",
        "n=text.jsonl:0.5",
        "text.jsonl:1e-3",
        "model+text.jsonl=0.5",
        f"a.b={text}",
    ]
    seen = []
    for content in ("one", "two"):
        text.write_text(content)
        seen.append(fingerprint(values))
    assert all(before != after for before, after in zip(*seen, strict=True))
    assert seen[0][2].startswith("n=sha256:") and seen[0][2].endswith(":0.5")
    assert fingerprint(["uniform", "1e-3", "absent=absent.jsonl", "", 3]) == (
        ["uniform", "1e-3", "absent=absent.jsonl", "", 3]
    )


def test_a_failing_stage_keeps_what_is_done(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("run", "quickstart", "--out", str(out), "--set", "instruct.tokens=2k", "--set", "wide.add=100k")
    done = surgeon(*words, "--json")
    errors = done.err.splitlines()[-3:]
    assert done.code in (1, 2) and done.out == "" and errors[0].startswith("error: "), done.err
    assert sorted(p.name.split("-")[0] for p in (out / "stages").iterdir()) == ["deep", "instruct"]
    assert [s["name"] for s in json.loads((out / "run.json").read_text())["stages"]] == ["instruct", "deep"]
    again = surgeon(*words)
    assert "deep: done before" in again.err and again.code == done.code


def test_recipes_speak_json(tmp_path: Path) -> None:
    for words in (("recipes", "--json"), ("recipes", "ls", "--json")):
        assert [r["name"] for r in json.loads(surgeon(*words).out)["recipes"]] == (
            [p.stem for p in sorted(recipes_dir().glob("*.yaml"))]
        )


def test_a_model_in_the_place_of_a_variable_is_told_where_it_belongs(tmp_path: Path) -> None:
    head = "title: t\nabout: a\ninputs: {base: b, tuned: t}\nstages:\n  merged:\n    run: merge-task-vectors\n"
    path = tmp_path / "r.yaml"
    path.write_text(head + "    uses: {base: base}\n    with: {add: ['${tuned}=0.5']}\n")
    with pytest.raises(UsageError, match="'tuned' is a model, not a variable") as caught:
        load(path)
    assert caught.value.where == "merged.add" and "`uses:` of merged" in caught.value.hint
    path.write_text(head + "    uses: {base: base}\n    with: {add: ['${tunde}=0.5']}\n")
    with pytest.raises(UsageError, match="no variable 'tunde'") as caught:
        load(path)
    assert caught.value.hint == "known: here; a new one goes under `vars:`"
    path.write_text(f"vars: {{tunde: x}}\n{path.read_text()}")
    assert load(path).recipe.stages["merged"].settings["add"] == ["x=0.5"]
