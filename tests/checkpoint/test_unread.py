"""Weights are read for their digests while they are copied: once, by the threads at hand, and only when they are."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surgeon.checkpoint import known_digests, tree_digest
from surgeon.checkpoint.index import SINGLE, Checkpoint
from surgeon.checkpoint.unread import Unread
from surgeon.errors import SurgeonError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.execute import execute
from surgeon.ops.plan import Input, from_json, to_json

Read = list[tuple[Path, int, int]]
LINKED = {"at": [4], "fill": "zero", "link": True}  # behind the last block: the old file stays what it is


@pytest.fixture
def model(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the model that counts as large, of which nothing is known."""
    shutil.copytree(stories, tmp_path / "model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(known_digests, "LARGE", 1)
    monkeypatch.setattr(known_digests, "_held", {})
    return tmp_path / "model"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """The pieces that are read for digests from now on."""
    pieces: Read = []
    actual: Callable[[Path, int, int], bytes] = tree_digest.leaf_digest

    def leaf_digest(path: Path, position: int, count: int) -> bytes:
        pieces.append((path, position, count))
        return actual(path, position, count)

    monkeypatch.setattr(tree_digest, "leaf_digest", leaf_digest)
    return pieces


def settings(model: Path, **more: Any) -> ExpandSettings:
    return ExpandSettings(model=str(model), out=model.with_name("out"), **(more or {"add": 2}))


@pytest.mark.parametrize("more", [{}, LINKED], ids=["copied", "linked"])
def test_every_byte_of_the_input_is_read_once_and_none_of_the_output(
    model: Path, read: Read, more: dict[str, Any]
) -> None:
    plan = plan_expand(settings(model, **more))
    assert read == []
    execute(plan, model.with_name("out"), threads=2)
    assert {path for path, _, _ in read} == {model / SINGLE}
    assert len(set(read)) == len(read)
    assert sum(count for _, _, count in read) == Checkpoint.open(model).num_bytes
    out = Checkpoint.open(model.with_name("out"))
    assert out.lineage is not None
    del read[:]
    assert out.lineage.parents[0].digest == Checkpoint.open(model).digest and read == []
    assert out.digest == out.read_digest()
    assert Checkpoint.open(model).digest == Checkpoint.open(model).read_digest()


def test_where_it_is_known_nothing_is_read_though_a_link_changes_the_inode(model: Path, read: Read) -> None:
    shard = model / "model-00001-of-00002.safetensors"
    from surgeon.checkpoint.writer import lay_out

    held = Checkpoint.open(model)
    assert lay_out([(t.name, t.dtype, t.shape) for t in held.tensors.values()], 1 << 30).shards
    assert held.digest and read
    del read[:]
    assert not shard.exists()
    execute(plan_expand(settings(model)), model.with_name("out"))
    assert read == []


def test_a_refusal_reads_nothing(model: Path, read: Read) -> None:
    model.with_name("out").mkdir()
    with pytest.raises(SurgeonError, match="exists already"):
        execute(plan_expand(settings(model)), model.with_name("out"))
    assert read == []


def test_what_is_written_to_while_it_is_copied_is_refused(model: Path) -> None:
    shard = model / SINGLE
    unread = Unread([shard])
    jobs = unread.jobs([])
    jobs[0]()
    with shard.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    for job in jobs[1:]:
        job()
    with pytest.raises(SurgeonError, match="changed while it was copied"):
        unread.remember()
    assert known_digests._held == {}


def test_another_name_that_comes_meanwhile_is_no_change_but_nothing_is_remembered(model: Path) -> None:
    shard = model / SINGLE
    unread = Unread([shard])
    for job in unread.jobs([]):
        job()
    time.sleep(0.05)
    os.link(shard, shard.with_name("second"))
    unread.remember()
    assert known_digests._held == {}


def test_an_input_is_the_same_however_its_digest_is_told() -> None:
    one, other = Input("model", Path("a"), "sha256:1"), Input("model", Path("a"), lambda: "sha256:1")
    assert one == other and hash(one) == hash(other)
    assert one != Input("model", Path("a"), lambda: "sha256:2")


def test_a_saved_plan_holds_the_digest(model: Path) -> None:
    plan = plan_expand(settings(model))
    again = from_json(to_json(plan))
    assert again.inputs == plan.inputs and again.digest == plan.digest
    assert again.inputs[0].told == Checkpoint.open(model).digest
