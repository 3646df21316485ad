"""--in-place: the same model as in a new folder; after a kill at any step it is the old one or becomes the new one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_identity import expanded, outputs
from test_kept_shards import sharded  # noqa: F401 - a fixture

from surgeon.checkpoint.header import read_header
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.insert_range import can_insert
from surgeon.checkpoint.journal import STAGE, is_between
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.operations import perform
from surgeon.ops.in_place import execute_in_place
from surgeon.verify import verify


@pytest.fixture
def place(tmp_path: Path) -> Path:
    if not can_insert(tmp_path):
        pytest.skip("the file system of the temporary folder cannot insert ranges (ext4 and XFS can)")
    return tmp_path


def in_place(folder: Path, **options: object) -> dict[str, object]:
    settings = ExpandSettings(model=str(folder), out=folder, in_place=True, **options)
    return perform("expand-layers", settings)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for shard in Checkpoint.open(folder).shards for n, t in load_file(shard).items()}


def same(a: Path, b: Path) -> bool:
    left, right = tensors(a), tensors(b)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_it_is_the_model_that_a_new_folder_would_hold(
    stories: Path,
    sharded: Path,  # noqa: F811
    place: Path,
    kind: str,
) -> None:
    source = stories if kind == "single" else sharded
    shutil.copytree(source, place / "model")
    starts = {s.name: {t.name: t.start for t in read_header(s)[0].values()} for s in Checkpoint.open(source).shards}
    inodes = {s.stat().st_ino for s in Checkpoint.open(place / "model").shards}
    other = expanded(source, place / "other", at=[0, 2, 2])
    result = in_place(place / "model", at=[0, 2, 2])
    assert same(place / "model", other)
    assert (place / "model" / "config.json").read_bytes() == (other / "config.json").read_bytes()
    assert verify(place / "model")["holds"] and not (place / "model" / STAGE).exists()
    assert result["verified"]["in_place"]  # type: ignore[index]
    kept = {s.stat().st_ino for s in Checkpoint.open(place / "model").shards}
    assert inodes <= kept, "the old shards are the very files"
    assert starts
    if kind == "single":
        assert torch.equal(outputs(place / "model")[0], outputs(stories)[0])


def test_twice_and_back_in_another_folder(stories: Path, place: Path) -> None:
    from surgeon.ops.execute import execute

    model = place / "model"
    shutil.copytree(stories, model)
    in_place(model, at=[1])
    in_place(model, at=[0, 3])
    assert same(model, expanded(expanded(stories, place / "a", at=[1]), place / "b", at=[0, 3]))
    back = ExpandSettings(model=str(model), out=place / "back", undo=True)
    execute(plan_expand(back), place / "back")
    assert same(place / "back", place / "a")


KILL = """
import os, signal, sys
from pathlib import Path
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.in_place import execute_in_place
folder, last = Path(sys.argv[1]), int(sys.argv[2])
count = 0
def step(name):
    global count
    count += 1
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)
settings = ExpandSettings(model=str(folder), out=folder, in_place=True, at=[0, 2])
execute_in_place(plan_expand(settings), step=step)
print(count)
"""


def test_a_kill_at_any_step_leaves_the_old_or_makes_the_new(sharded: Path, place: Path) -> None:  # noqa: F811
    """Every step of the journal in turn; then the command is given once more."""
    wanted = expanded(sharded, place / "wanted", at=[0, 2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = [sys.executable, "-c", KILL]
    seen = {"old": 0, "between": 0, "new": 0}
    model = place / "model"
    for last in range(1, 100):
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(sharded, model)
        done = subprocess.run([*script, str(model), str(last)], capture_output=True, text=True, env=environment)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        if is_between(model):
            seen["between"] += 1
            with pytest.raises(SurgeonError, match="was interrupted"):
                Checkpoint.open(model)
            with pytest.raises(SurgeonError, match="was interrupted"):
                plan_expand(ExpandSettings(model=str(model), out=place / "x", at=[1]))
            assert "finished" in in_place(model, at=[0, 2])
        elif same(model, sharded):
            seen["old"] += 1
            in_place(model, at=[0, 2])
        else:
            seen["new"] += 1
        assert same(model, wanted) and verify(model)["holds"]
        assert not [p for p in model.iterdir() if p.name.startswith(".") and p.name != STAGE]
    assert seen["old"] == 1 and seen["between"] > 8 and seen["new"] == 1, seen
    assert done.returncode == 0 and last == sum(seen.values()) + 1


def test_what_a_change_would_be_seen_through_is_refused(stories: Path, place: Path) -> None:
    linked = expanded(stories, place / "deep", at=[1])
    again = expanded(linked, place / "again", at=[5], link=True)
    for folder in (linked, again):
        before = tensors(folder)
        with pytest.raises(SurgeonError, match="second name"):
            in_place(folder, at=[0])
        assert tensors(folder).keys() == before.keys() and not (folder / STAGE).exists()
    pointed = place / "pointed"
    shutil.copytree(stories, pointed)
    (pointed / "model.safetensors").rename(place / "blob")
    (pointed / "model.safetensors").symlink_to(place / "blob")
    with pytest.raises(SurgeonError, match="is a link"):
        in_place(pointed, at=[0])


def test_choices_that_contradict_it_are_refused(stories: Path, place: Path) -> None:
    model = place / "model"
    shutil.copytree(stories, model)
    with pytest.raises(UsageError, match="OUT is another folder"):
        plan_expand(ExpandSettings(model=str(model), out=place / "out", in_place=True, at=[1]))
    for options in ({"link": True}, {"undo": True}, {"shard_bytes": 1000}):
        with pytest.raises(UsageError, match="contradict"):
            in_place(model, at=[1], **options)
    assert Checkpoint.open(model).digest == Checkpoint.open(stories).digest


def test_a_file_system_that_cannot_is_refused(stories: Path) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or can_insert(shm):
        pytest.skip("there is no file system here that cannot insert ranges")
    folder = shm / f"surgeon-test-{os.getpid()}"
    try:
        shutil.copytree(stories, folder)
        with pytest.raises(SurgeonError, match="cannot insert room"):
            in_place(folder, at=[1])
        assert Checkpoint.open(folder).digest == Checkpoint.open(stories).digest
    finally:
        shutil.rmtree(folder)


def test_the_journal_refuses_a_shard_that_something_else_changed(stories: Path, place: Path) -> None:
    model = place / "model"
    shutil.copytree(stories, model)

    def stop(name: str) -> None:
        if name.startswith("grown"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_in_place(plan_expand(ExpandSettings(model=str(model), out=model, in_place=True, at=[1])), step=stop)
    assert is_between(model)
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"xx")
    with pytest.raises(SurgeonError, match="the journal knows"):
        in_place(model, at=[1])
