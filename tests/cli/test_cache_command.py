"""`surgeon cache` says what is kept, and `prune` removes the part of it that was asked for and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from run_cli import surgeon

from surgeon.data import known_files, order, token_cache
from surgeon.data.order import scores
from surgeon.data.source import Corpus
from surgeon.data.store import place_of, stored
from surgeon.data.token_cache import read_tokens
from surgeon.loading import load_tokenizer


def corpus(path: Path, count: int) -> Corpus:
    path.write_text("".join(json.dumps({"text": f"Tom had {n} balls.", "q": n}) + "\n" for n in range(count)))
    return Corpus(path.stem, path)


@pytest.fixture
def home(tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the tokens of two corpora, the scores of one, what a killed process left, and a stranger's file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (known_files, token_cache, order):
        monkeypatch.setattr(module, "MIN_BYTES", 0)
    tokenizer = load_tokenizer(stories)
    for count in (10, 20):
        read_tokens(corpus(tmp_path / f"of{count}.jsonl", count), tokenizer)
    scores(corpus(tmp_path / "of10.jsonl", 10), "q", 10)
    found = tmp_path / "cache" / "surgeon"
    (found / "tokens" / ".abc.partial").mkdir()
    (found / "tokens" / ".abc.partial" / "ids.i32").write_bytes(b"0" * 100)
    (found / "mine").mkdir()
    (found / "mine" / "notes.txt").write_text("not of the cache")
    return found


def told(*words: str) -> Any:
    done = surgeon(*words, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def folders(home: Path, kind: str) -> list[Path]:
    return sorted(p for p in (home / kind).iterdir() if p.is_dir())


def size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def test_what_there_is(home: Path) -> None:
    found = told("cache")
    assert found["folder"] == str(home)
    held = {k["kind"]: (k["entries"], k["unfinished"], k["bytes"]) for k in found["kinds"]}
    assert held["tokens"] == (3, 1, size(home / "tokens"))
    assert held["scores"] == (1, 0, 80)
    assert held["corpora"] == (3, 0, size(home / "corpora"))
    assert found["bytes"] == sum(b for _, _, b in held.values()) == size(home) - size(home / "mine")
    shown = surgeon("cache")
    assert str(home) in shown.out and "tokens of corpora" in shown.out
    assert surgeon("cache", "prun").code == 2


def test_without_a_cache_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert told("cache")["bytes"] == 0
    assert told("cache", "prune", "--all")["removed"] == []
    assert not (tmp_path / "none").exists()


def test_what_was_used_lately_stays(home: Path, tmp_path: Path, stories: Path) -> None:
    long_ago = time.time() - 40 * 86_400
    for kind in ("tokens", "scores", "corpora"):
        for path in (home / kind).iterdir():
            os.utime(path, (long_ago, long_ago))
    before = {p: size(p) for p in folders(home, "tokens")}
    used = read_tokens(corpus_again(tmp_path / "of20.jsonl"), load_tokenizer(stories))
    planned = told("cache", "prune", "--older-than", "30", "--dry-run")
    assert {p: size(p) for p in folders(home, "tokens")} == before
    found = told("cache", "prune", "--older-than", "30")
    assert found == planned | {"dry_run": False}
    (kept,) = folders(home, "tokens")
    assert size(kept) == before[kept] and used.tokens.num_documents == 20
    assert not folders(home, "scores") and not list((home / "corpora").glob("*"))
    assert found["bytes_left"] == size(home) - size(home / "mine")
    assert (home / "mine" / "notes.txt").read_text() == "not of the cache"


def corpus_again(path: Path) -> Corpus:
    return Corpus(path.stem, path)


def test_the_oldest_go_first_until_it_is_small_enough(home: Path) -> None:
    whole = [p for p in folders(home, "tokens") if not p.name.startswith(".")]
    for days, path in enumerate([whole[1], whole[0]], 1):
        os.utime(path, (time.time() - days * 86_400,) * 2)  # the first is the oldest
    left = size(home) - size(home / "mine") - size(home / "tokens" / ".abc.partial") - size(whole[0])
    told("cache", "prune", "--keep", str(left))
    assert folders(home, "tokens") == [whole[1]] and folders(home, "scores")
    assert size(home) - size(home / "mine") == left


def test_all_of_it_and_a_run_that_reads_goes_on(home: Path, tmp_path: Path, stories: Path) -> None:
    tokens = read_tokens(corpus_again(tmp_path / "of20.jsonl"), load_tokenizer(stories)).tokens
    ids = tokens.ids.tolist()
    found = told("cache", "prune", "--all")
    assert len(found["removed"]) == 7 and found["bytes_left"] == 0
    assert [p.name for p in home.rglob("*") if p.is_file()] == ["notes.txt"]
    assert tokens.ids.tolist() == ids
    again = read_tokens(corpus_again(tmp_path / "of20.jsonl"), load_tokenizer(stories)).tokens
    assert again.ids.tolist() == ids


def test_what_a_process_makes_just_now_stays(home: Path) -> None:
    with (home / "tokens" / ".abc.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told("cache", "prune", "--all")
        assert [p.name for p in folders(home, "tokens")] == [".abc.partial"]
    told("cache", "prune", "--all")
    assert not list((home / "tokens").iterdir())


def test_a_place_that_was_pruned_is_made_again(home: Path) -> None:
    stored("turns", "sha256:1", lambda folder: (folder / "a").touch())
    told("cache", "prune", "--older-than", "0")
    assert not place_of("turns", "sha256:1").exists()
    assert (stored("turns", "sha256:1", lambda folder: (folder / "b").touch()) / "b").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "nothing says what to remove"),
        (("--all", "--keep", "1G"), "--all leaves nothing to choose"),
        (("--older-than", "-1"), "--older-than is -1"),
        (("--older-than", "nan"), "--older-than is nan"),
        (("--keep", "much"), "is not a count"),
    ],
)
def test_what_is_refused(home: Path, words: tuple[str, ...], problem: str) -> None:
    before = size(home)
    done = surgeon("cache", "prune", *words)
    assert done.code == 2 and problem in done.err and size(home) == before
