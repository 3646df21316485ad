"""A change in place that was killed: nobody takes it for a model, and the same command makes the new one of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from in_place_runs import in_place, insertable, is_of, killed, library, same, tensors, tree
from run_cli import surgeon
from test_kept_shards import sharded  # noqa: F401 - a fixture

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.journal import STAGE, WEIGHTS, is_between
from surgeon.errors import SurgeonError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.in_place import execute_in_place, request_of
from surgeon.verify import verify


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return insertable(tmp_path)


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_a_kill_at_any_step_leaves_the_old_or_makes_the_new(
    stories: Path,
    sharded: Path,  # noqa: F811
    place: Path,
    kind: str,
) -> None:
    """Every step of the journal in turn: what a library and the commands see then, and the command once more."""
    source = stories if kind == "single" else sharded
    wanted, model = place / "wanted" / "model", place / "killed" / "model"
    shutil.copytree(source, wanted)
    in_place(wanted, at=[0, 2])
    states = []
    for last in range(1, 100):
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(source, model)
        step = killed(model, last)
        if step is None:
            break
        loaded = library(model)
        if is_between(model):
            states.append("between")
            assert loaded is None, step
            with pytest.raises(SurgeonError, match="was interrupted") as refused:
                Checkpoint.open(model)
            assert refused.value.hint == f"finish it: surgeon expand-layers {model} {model} --at 0,2 --in-place"
        else:
            states.append("old" if Checkpoint.open(model).tensors.keys() == tensors(source).keys() else "new")
            assert loaded is not None and is_of(loaded, source if states[-1] == "old" else wanted), step
        again = in_place(model, at=[0, 2]) if step != "done" else {"finished": ""}
        assert ("finished" in again) is (states[-1] != "old"), step
        if step != "done":
            assert tree(model) == tree(wanted), step
        assert same(model, wanted) and verify(model)["holds"]
    between = len(states) - 3
    assert states == ["old"] + ["between"] * between + ["new", "new"] and between > 8
    assert not [p for p in model.iterdir() if p.name.startswith(".")]


def test_every_command_says_what_was_interrupted(stories: Path, place: Path) -> None:
    model, corpus = place / "model", str(stories.parent / "general.valid.jsonl")
    shutil.copytree(stories, model)
    assert killed(model, 2) == "aside config.json"
    out, name = str(place / "out"), str(model)
    (place / "tokens.txt").write_text("hippopotamus\n")
    commands: list[list[str]] = [
        ["inspect", name],
        ["evaluate", name, "--data", corpus],
        ["verify", name],
        ["verify", name, "--function"],
        ["diff", name, str(stories)],
        ["expand-layers", name, out, "--add", "1"],
        ["expand-layers", name, out, "--undo"],
        ["extend-vocab", name, out, "--tokens", str(place / "tokens.txt")],
        ["cpt", name, out, "--data", corpus, "--tokens", "1k"],
        ["merge", "linear", out, f"{name}=1.0", f"{stories}=1.0"],
        ["merge-task-vectors", str(stories), out, "--add", f"{name}=1.0"],
        ["attach-adapter", name, out, "--rank", "4"],
    ]
    for words in commands:
        done = surgeon(*words)
        lines = done.err.strip().splitlines()[-3:]  # before them, what it was at
        assert done.code == 1, (words, done)
        assert "in its place was interrupted" in lines[0] and name in lines[1] and "--at 0,2 --in-place" in lines[2]
    done = surgeon("expand-layers", name, name, "--in-place", "--at", "0,2")
    assert done.code == 0 and "interrupted change" in done.out and verify(model)["holds"]


def test_another_request_is_refused_until_the_interrupted_one_is_finished(stories: Path, place: Path) -> None:
    for last, step in ((5, "grown model.safetensors"), (13, "new config.json")):
        model = place / f"model-{last}"
        shutil.copytree(stories, model)
        assert killed(model, last) == step
        before = tree(model)
        for words in (["--at", "5"], ["--at", "0,2", "--fill", "copy"], ["--add", "2"]):
            done = surgeon("expand-layers", str(model), str(model), "--in-place", *words)
            assert done.code == 1 and "another change" in done.err
            assert f"surgeon expand-layers {model} {model} --at 0,2 --in-place" in done.err
        assert tree(model) == before
        in_place(model, at=[0, 2])
        lineage = Checkpoint.open(model).lineage
        assert lineage is not None and lineage.blocks is not None and len(lineage.blocks.new) == 2


def test_the_journal_refuses_a_shard_that_something_else_changed(stories: Path, place: Path) -> None:
    model = place / "model"
    shutil.copytree(stories, model)

    def stop(name: str) -> None:
        if name.startswith("grown"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings = ExpandSettings(model=str(model), out=model, in_place=True, at=[1])
        execute_in_place(plan_expand(settings), request_of("expand-layers", settings), step=stop)
    assert is_between(model)
    with (model / STAGE / WEIGHTS / "0").open("ab") as file:
        file.write(b"xx")
    with pytest.raises(SurgeonError, match="the journal knows"):
        in_place(model, at=[1])
