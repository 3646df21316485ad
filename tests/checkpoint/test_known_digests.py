"""What is remembered of a file holds only while the file is the same; nothing of it reaches verify."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surgeon.checkpoint import known_digests, tree_digest
from surgeon.checkpoint.index import SINGLE, Checkpoint
from surgeon.checkpoint.known_digests import known_weight_digests, stamp
from surgeon.checkpoint.tree_digest import weight_digest


@pytest.fixture
def shard(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the model whose digests are large enough to be kept, in a cache of its own."""
    shutil.copytree(stories, tmp_path / "model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(known_digests, "LARGE", 1)
    monkeypatch.setattr(known_digests, "_held", {})
    return tmp_path / "model" / SINGLE


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process, which must not read: a read fails."""
    monkeypatch.setattr(known_digests, "_held", {})
    monkeypatch.setattr(tree_digest, "leaf_digest", None)


def overwrite(path: Path) -> None:
    """Another byte in the same place, behind the old time of modification."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_size == before.st_size


def test_an_unchanged_file_is_read_once(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = weight_digest(shard)
    assert known_weight_digests([shard]) == [expected]
    forget(monkeypatch)
    assert known_weight_digests([shard]) == [expected]
    with pytest.raises(TypeError):  # and verification reads in any case
        Checkpoint.open(shard.parent).read_digest()


def test_a_change_behind_the_same_size_and_time_is_seen(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Checkpoint.open(shard.parent).digest
    overwrite(shard)
    second = Checkpoint.open(shard.parent)
    assert second.digest != first and second.digest == second.read_digest()
    monkeypatch.setattr(known_digests, "_held", {})
    assert Checkpoint.open(shard.parent).digest == second.digest


def test_a_file_that_has_just_changed_is_not_remembered(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_digests, "let_tick_pass", lambda paths: None)
    overwrite(shard)
    known_weight_digests([shard])
    assert known_digests._held == {} and not list((shard.parents[1]).glob("cache/**/*.json"))


def test_a_second_name_changes_the_inode_and_can_be_remembered(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (digest,) = known_weight_digests([shard])
    time.sleep(0.15)
    os.link(shard, shard.with_name("second"))
    assert known_digests.recall(stamp(shard)) is None
    known_digests.remember(stamp(shard), digest, time.time_ns(), linked=True)
    forget(monkeypatch)
    assert known_weight_digests([shard, shard.with_name("second")]) == [digest, digest]


def test_the_oldest_of_many_go(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_digests, "_KEPT", 3)
    monkeypatch.setattr(known_digests, "_SLACK", 2)
    places = [shard.with_name(f"copy{n}") for n in range(6)]
    for place in places:
        shutil.copy(shard, place)
        known_weight_digests([place])
        time.sleep(0.01)  # times of files are as coarse as the system's clock
    (folder,) = shard.parents[1].glob("cache/surgeon/digests")
    assert sorted(folder.iterdir()) == sorted(known_digests._path(stamp(place)) for place in places[-3:])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_a_damaged_memory_is_not_used(shard: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (expected,) = known_weight_digests([shard])
    (kept,) = shard.parents[1].glob("cache/surgeon/digests/*.json")
    value = json.loads(kept.read_text())
    for damaged in (text, json.dumps(value | {"stamp": [1, 2, 3, 4, 5]}), json.dumps(value | {"digest": "x"})):
        kept.write_text(damaged)
        monkeypatch.setattr(known_digests, "_held", {})
        assert known_weight_digests([shard]) == [expected]


def test_without_a_place_to_write_it_works(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert known_weight_digests([shard]) == [weight_digest(shard)]


def test_small_files_leave_nothing_in_the_cache(stories: Path, tmp_path: Path) -> None:
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = ["expand-layers", str(stories), str(tmp_path / "out"), "--add", "1", "--quiet"]
    subprocess.run([sys.executable, "-m", "surgeon", *words], env=env, check=True, capture_output=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
