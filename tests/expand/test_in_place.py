"""--in-place: the same model as in a new folder, with the old shards as the very files; and what it refuses."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from in_place_runs import in_place, insertable, same, tensors, tree
from test_identity import expanded, outputs
from test_kept_shards import sharded  # noqa: F401 - a fixture

from surgeon.checkpoint.header import read_header
from surgeon.checkpoint.index import INDEX, Checkpoint
from surgeon.checkpoint.insert_range import can_insert
from surgeon.checkpoint.journal import STAGE
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.operations import perform
from surgeon.ops.in_place import request_of
from surgeon.verify import verify


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return insertable(tmp_path)


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
    for name in ["config.json", *([INDEX] if kind == "sharded" else [])]:
        assert (place / "model" / name).read_bytes() == (other / name).read_bytes()
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


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_undo_gives_the_original_bytes(
    stories: Path,
    sharded: Path,  # noqa: F811
    place: Path,
    kind: str,
) -> None:
    source, model, back = stories if kind == "single" else sharded, place / "model", place / "back"
    shutil.copytree(source, model)
    in_place(model, at=[0, 2])
    done = perform("expand-layers", ExpandSettings(model=str(model), out=back, undo=True))
    assert done["verified"]["original"] and verify(back, function=True)["holds"]
    assert {n: b for n, b in tree(back).items() if n != "surgeon.json"} == tree(source)


def test_the_request_is_written_as_it_is_typed(tmp_path: Path) -> None:
    settings = ExpandSettings(
        model="m",
        out=tmp_path,
        in_place=True,
        select="importance",
        add=2,
        probe="a b.jsonl",
        option={"rows": 3, "k": "v"},
    )
    words = "expand-layers --add 2 --select importance --probe|a b.jsonl|--option rows=3 --option k=v --in-place"
    first, path, rest = words.split("|")
    assert request_of("expand-layers", settings) == [*first.split(), path, *rest.split()]


def test_a_file_that_a_new_shard_would_replace_is_refused(sharded: Path, place: Path) -> None:  # noqa: F811
    model = place / "model"
    shutil.copytree(sharded, model)
    count = len(Checkpoint.open(model).shards) + 1
    stray = model / f"model-00001-of-{count:05d}.safetensors"
    shutil.copyfile(model / Checkpoint.open(model).shards[0].name, stray)
    before = tree(model)
    with pytest.raises(SurgeonError, match="is not the checkpoint's"):
        in_place(model, at=[1])
    assert tree(model) == before


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


def test_a_full_disk_is_named_and_leaves_the_old_one(
    stories: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system says of a write has no name of a file."""
    from surgeon.ops import in_place as module

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = Checkpoint.open(stories).digest
    for name in ("can_insert", "write_shards"):
        folder = place / name
        shutil.copytree(stories, folder)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(SurgeonError, match="the disk is full") as told:
                in_place(folder, at=[1])
        assert told.value.where == str(folder) and Checkpoint.open(folder).digest == before
        assert not list(folder.glob(".surgeon*"))
