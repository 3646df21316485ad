"""Cached tokens are those that would be made anew; two processes make them once; what changed is not served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm

from surgeon.data import known_files, token_cache
from surgeon.data.pack import Packed
from surgeon.data.pieces import PIECE
from surgeon.data.source import Corpus
from surgeon.data.token_cache import INDEX, read_tokens, tokenizer_digest
from surgeon.data.tokens import Tokens, tokenise
from surgeon.errors import SurgeonError
from surgeon.loading import load_tokenizer

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own that takes corpora of any size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (known_files, token_cache):
        monkeypatch.setattr(module, "MIN_BYTES", 0)
    return tmp_path / "cache" / "surgeon"


@pytest.fixture
def tokenizer(stories: Path) -> Any:
    return load_tokenizer(stories)


def folders(home: Path) -> list[Path]:
    return sorted((home / "tokens").iterdir())


def same(one: Tokens, other: Tokens) -> bool:
    plain = ("name", "instruct", "num_bytes", "max_id", "learned")
    arrays = ("ids", "learn", "offsets")
    return all(getattr(one, k) == getattr(other, k) for k in plain) and all(
        getattr(one, k).dtype == getattr(other, k).dtype and getattr(one, k).tobytes() == getattr(other, k).tobytes()
        for k in arrays
    )


@pytest.mark.parametrize("name", ["domain", "instruct"])
@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_cached_tokens_are_the_same_bytes(home: Path, stories: Path, tokenizer: Any, name: str, loss_on: Any) -> None:
    corpus = Corpus("c", stories.parent / f"{name}.train.jsonl")
    expected = tokenise(corpus, tokenizer, loss_on)
    first, second = (read_tokens(corpus, tokenizer, loss_on) for _ in range(2))
    assert isinstance(second.tokens.ids, np.memmap)
    assert same(first.tokens, expected)
    assert same(second.tokens, expected)
    assert len(folders(home)) == 1


def test_encoding_in_the_library_is_the_call_of_the_tokenizer(material: Path, tmp_path: Path) -> None:
    """The path without offsets against the call that everybody uses, on real tokenizers and scripts."""
    for name in ("gpt2", "qwen2", "mistral-v1", "minimind-6400"):
        tokenizer = load_tokenizer(material / "tokenizers" / name)
        path = material / "corpora" / "ta.valid.jsonl"
        texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").split("\n")[:20]]
        texts += ["</s> <|endoftext|> a", "  two  spaces ", "\ufeffx\u00a0y"]
        held = tmp_path / "texts.jsonl"
        held.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
        tokens = tokenise(Corpus("c", held), tokenizer)
        called = tokenizer(texts, add_special_tokens=False).input_ids
        marks = token_cache.specials(tokenizer)
        for document, (begin, end) in enumerate(zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)):
            whole = [*marks.start, *called[document]]
            assert tokens.ids[begin:end].tolist()[: len(whole)] == whole


def test_what_decides_is_in_the_name(home: Path, tmp_path: Path, stories: Path, tokenizer: Any) -> None:
    raw = '{"text": "a b"}\n'
    (tmp_path / "a.jsonl").write_text(raw)
    (tmp_path / "a.txt").write_text(raw)
    read_tokens(Corpus("c", tmp_path / "a.jsonl"), tokenizer)
    assert len(folders(home)) == 1
    read_tokens(Corpus("other name", tmp_path / "a.jsonl"), tokenizer)
    assert len(folders(home)) == 1
    read_tokens(Corpus("c", tmp_path / "a.txt"), tokenizer)  # the same bytes, read another way
    read_tokens(Corpus("c", tmp_path / "a.jsonl"), tokenizer, "all")
    read_tokens(Corpus("c", tmp_path / "a.jsonl", format="text"), tokenizer)
    assert len(folders(home)) == 4
    digests = [tokenizer_digest(tokenizer), tokenizer_digest(load_tokenizer(stories))]
    assert digests[0] == digests[1]
    tokenizer.add_tokens(["Lily"])
    digests.append(tokenizer_digest(tokenizer))
    tokenizer.chat_template = CHAT
    digests.append(tokenizer_digest(tokenizer))
    tokenizer.eos_token = "Lily"
    digests.append(tokenizer_digest(tokenizer))
    assert len(set(digests[1:])) == 4


def test_a_known_corpus_is_not_read(home: Path, tmp_path: Path, stories: Path, tokenizer: Any) -> None:
    """In a process of its own, with reading made impossible: only stats are left."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Once upon a time"}\n' * 5)
    expected = read_tokens(Corpus("c", path), tokenizer)
    script = f"""
import sys
from pathlib import Path
from surgeon.data import known_files, source, token_cache
known_files.MIN_BYTES = token_cache.MIN_BYTES = 0
def refuse(*_): raise AssertionError("the corpus was read")
known_files.file_digests = source._records = refuse
from surgeon.loading import load_tokenizer
found = token_cache.read_tokens(source.Corpus("c", Path({str(path)!r})), load_tokenizer(Path({str(stories)!r})))
print(found.digest, found.tokens.ids.sum())
"""
    run = warm.run(["-c", script])
    assert run.stdout.split() == [expected.digest, str(expected.tokens.ids.sum())], run.stderr


def test_a_change_is_seen_behind_the_same_size_and_time(home: Path, tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    before, times = read_tokens(Corpus("c", path), tokenizer), path.stat()
    path.write_text('{"text": "two"}\n')
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = read_tokens(Corpus("c", path), tokenizer)
    assert after.digest != before.digest
    assert after.tokens.ids.tolist() == tokenise(Corpus("c", path), tokenizer).ids.tolist()


@pytest.mark.parametrize("small", [False, True])
def test_a_corpus_that_changes_while_it_is_read_is_refused(
    home: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    path = tmp_path / "texts"
    path.mkdir()
    (path / "a.jsonl").write_text('{"text": "one"}\n')
    if small:
        monkeypatch.setattr(token_cache, "MIN_BYTES", 1 << 20)
    digest = token_cache.corpus_digest

    def and_then_another_file(corpus: Corpus) -> str:
        found = digest(corpus)
        (path / "b.jsonl").write_text('{"text": "two"}\n')
        return found

    monkeypatch.setattr(token_cache, "corpus_digest", and_then_another_file)
    with pytest.raises(SurgeonError, match="changed while it was read"):
        read_tokens(Corpus("c", path), tokenizer)
    assert small or folders(home) == []


@pytest.mark.parametrize("part", ["ids.i32", "learn.bool", "offsets.i64", "pieces.blake3"])
def test_tokens_that_were_altered_at_the_same_size_are_refused(
    home: Path, tmp_path: Path, tokenizer: Any, part: str
) -> None:
    """Where they are read and not before, but for what is small; the pieces that are what they were are served."""
    path = tmp_path / "a.txt"
    path.write_text("Once upon a time there was a little girl named Lily. " * 4_000)
    tokens = read_tokens(Corpus("c", path), tokenizer).tokens
    assert tokens.num_tokens > 3 * PIECE and tokens.pieces is not None
    whole = [Packed(tokens, 4096, 0, 0, "split").window(number).ids.tolist() for number in range(12)]
    file = folders(home)[0] / part
    raw = bytearray(file.read_bytes())
    at = 2 * PIECE + 5  # a token of the third piece
    raw[{"ids.i32": 4 * at, "learn.bool": at}.get(part, len(raw) - 8)] ^= 1
    times = file.stat()
    file.write_bytes(raw)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    def read() -> None:
        packed = Packed(read_tokens(Corpus("c", path), tokenizer).tokens, 4096, 0, 0, "split")
        for number in range(7):  # the last of them has a label in the second piece still
            assert packed.window(number).ids.tolist() == whole[number]
        packed.window(8)

    with pytest.raises(SurgeonError, match="no longer what was written") as refused:
        read()
    assert str(folders(home)[0]) == refused.value.where and "remove this folder" in refused.value.hint
    assert ("from token 32,768" in refused.value.problem) == (part in ("ids.i32", "learn.bool"))
    shutil.rmtree(folders(home)[0])
    read()


def test_broken_caches_are_refused_and_a_place_that_cannot_be_written(
    home: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    read_tokens(Corpus("c", path), tokenizer)
    ids = folders(home)[0] / "ids.i32"
    ids.write_bytes(ids.read_bytes()[:-4])
    with pytest.raises(SurgeonError, match="cannot be read: the sizes"):
        read_tokens(Corpus("c", path), tokenizer)
    (folders(home)[0] / INDEX).unlink()
    with pytest.raises(SurgeonError, match="cannot be read"):
        read_tokens(Corpus("c", path), tokenizer)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with pytest.raises(SurgeonError, match="the cache cannot be written") as error:
        read_tokens(Corpus("c", path), tokenizer)
    assert "XDG_CACHE_HOME" in error.value.hint


WRITER = """
import sys, time
from pathlib import Path
from surgeon.data import known_files, source, token_cache
from surgeon.loading import load_tokenizer
known_files.MIN_BYTES = token_cache.MIN_BYTES = 0
write = token_cache._write
def slow(*given):
    print("writing", flush=True)
    write(*given)
    time.sleep(float(sys.argv[3]))
token_cache._write = slow
read = token_cache.read_tokens(source.Corpus("c", Path(sys.argv[1])), load_tokenizer(Path(sys.argv[2])))
print(read.tokens.num_tokens, flush=True)
"""


def test_two_processes_make_it_once_and_a_killed_one_leaves_nothing(
    home: Path, tmp_path: Path, stories: Path, tokenizer: Any
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Once upon a time"}\n' * 50)

    def start(seconds: float) -> warm.Process:
        return warm.Process(["-c", WRITER, str(path), str(stories), str(seconds)])

    killed = start(60)
    while not killed.printed():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    assert killed.printed() == "writing\n"
    time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert all(p.name.startswith(".") for p in folders(home))
    said = [process.communicate()[0].split() for process in [start(1.5), start(1.5)]]
    expected = str(tokenise(Corpus("c", path), tokenizer).num_tokens)
    assert sorted(said, key=len) == [[expected], ["writing", expected]]
    assert len(folders(home)) == 1
