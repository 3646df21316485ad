"""A model as a person names it, with and without an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgeon.data.source import parse_corpus
from surgeon.errors import SurgeonError, UsageError
from surgeon.model_ref import check_named, resolve, resolve_plain
from surgeon.run import fingerprint


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "adapter"), [("m", "a"), ("m+b", "a"), ("m", "a+1"), ("d+1/m+b", "d+1/a+2"), ("m a=1", "ä:+")]
)
def test_the_plus_between_two_folders_is_the_one_that_parts_them(here: Path, model: str, adapter: str) -> None:
    for name in (model, adapter):
        Path(name).mkdir(parents=True)
    found = resolve(f"{model}+{adapter}")
    assert found.path == Path(model)
    assert found.adapter is not None and found.adapter.path == Path(adapter)


def test_a_folder_with_a_plus_in_its_name_is_itself(here: Path) -> None:
    for name in ("m", "a", "m+a"):
        Path(name).mkdir()
    assert resolve("m+a").path == Path("m+a") and resolve("m+a").adapter is None


def test_the_half_that_is_missing_is_named(here: Path) -> None:
    Path("m").mkdir()
    with pytest.raises(SurgeonError) as refusal:
        resolve("m+absent")
    assert refusal.value.where == "absent"


def test_an_adapter_is_refused_where_it_would_be_passed_over(here: Path) -> None:
    Path("m").mkdir()
    Path("a").mkdir()
    assert resolve_plain("m", "a difference").path == Path("m")
    with pytest.raises(UsageError, match="a difference is of the bytes of one folder"):
        resolve_plain("m+a", "a difference")


def test_the_home_folder_where_no_shell_has_put_it_in(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a `=`, behind a `+` and in a recipe nobody does; a folder that is called so as written comes first."""
    home = here / "home"
    monkeypatch.setenv("HOME", str(home))
    for name in ("m", "a", "1+1"):
        (home / name).mkdir(parents=True)
    (home / "t.jsonl").write_text('{"text": "one"}\n')
    assert resolve("~/m").path == home / "m" and resolve("~/1+1").path == home / "1+1"
    check_named("~/m+~/a")
    both = resolve("~/m+~/a")
    assert both.path == home / "m" and both.adapter is not None and both.adapter.path == home / "a"
    for text, weight in (("~/t.jsonl", None), ("name=~/t.jsonl", None), ("name=~/t.jsonl:0.5", 0.5)):
        corpus = parse_corpus(text)
        assert (corpus.path, corpus.weight) == (home / "t.jsonl", weight)
    before = fingerprint(["name=~/t.jsonl:0.5", "~/m+~/a=1.0"])
    assert not any("~" in text for text in before)
    (home / "t.jsonl").write_text('{"text": "two"}\n')  # a stage that reads it is done again
    assert fingerprint(["name=~/t.jsonl:0.5"])[0] != before[0]
    Path("~").mkdir()
    Path("~/m").mkdir()
    assert resolve("~/m").path == Path("~/m")
