"""Numbers that only Python or YAML 1.1 takes for some are refused, wherever a person writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_cli import surgeon

from surgeon import registry
from surgeon.errors import UsageError
from surgeon.settings import key_value, read_yaml
from surgeon.vocab.vec_file import read_vec


@pytest.mark.parametrize("word", ["1_0", "１０", "2.0", "0", "-1", "x", ""])
def test_threads(stories: Path, tmp_path: Path, word: str) -> None:
    words = ("expand-layers", str(stories), str(tmp_path / "out"), "--add", "1", "--dry-run")
    done = surgeon(*words, "--threads", word)
    assert done.code == 2 and done.err.count("\n") == 3 and "--threads" in done.err, done.err
    assert surgeon(*words, "--threads", "2").code == 0


@pytest.mark.parametrize("word", ["1_0", "１", "nan", "inf", "-1"])
def test_days(word: str) -> None:
    done = surgeon("cache", "prune", "--older-than", word, "--dry-run")
    assert done.code == 2 and done.err.count("\n") == 3, done.err


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1_0", "1_0"), ("010", "010"), ("1:30", "1:30"), ("1_0.5", "1_0.5"), ("1:30.5", "1:30.5"), ("１０", "１０"),
        ("10", 10), ("-3", -3), ("0", 0), ("0x10", 16), ("0b11", 3), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0),
        ("1.0e+3", 1000.0), ("-.inf", float("-inf")), ("yes", True), ("~", None), ("[1, 2]", [1, 2]), ("3e-4", "3e-4"),
    ],
)  # fmt: skip
def test_of_yaml(tmp_path: Path, word: str, value: Any) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {word}\n")
    for found in (read_yaml(tmp_path / "a.yaml")["a"], key_value(f"a={word}")[1]):
        assert found == value and type(found) is type(value)


def test_a_recipe(stories: Path, tmp_path: Path) -> None:
    words = ("expand-layers", str(stories), str(tmp_path / "out"), "--dry-run")
    for word in ("1_0", "1:0"):
        (tmp_path / "a.yaml").write_text(f"add: {word}\n")
        done = surgeon(*words, "--config", str(tmp_path / "a.yaml"))
        assert done.code == 2 and done.err.count("\n") == 3 and word in done.err


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999", "1_0", "１"])
def test_options_of_methods(word: str) -> None:
    with pytest.raises(UsageError, match="is not valid"):
        registry.get("merge", "task_arithmetic").bind({"scale": word})


def test_of_a_file_of_vectors(tmp_path: Path) -> None:
    (tmp_path / "a.vec").write_text("1 2\na_b 1_0 2\n")
    with pytest.raises(Exception, match="2 numbers"):
        read_vec(tmp_path / "a.vec")
