"""Precedence of settings, and refusals that name the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from surgeon.cli.app import main
from surgeon.cli.words import SHAPES, SWITCHES, Shape, spread
from surgeon.errors import UsageError
from surgeon.settings import key_value, read_yaml, resolve


class Example(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    lr: float = 1.0
    seq_len: int = 8
    blocks: list[int] | None = None
    data: list[str] = []


def test_default_recipe_set_flag() -> None:
    settings, origins = resolve(
        Example, recipe={"lr": "3e-4", "seq-len": 16}, sets=["seq-len=32"], flags={"blocks": "1,2"}
    )
    assert (settings.lr, settings.seq_len, settings.blocks) == (3e-4, 32, [1, 2])
    assert origins == {"lr": "recipe", "seq_len": "--set", "blocks": "flag", "data": "default"}


def test_unknown_and_ill_typed() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Example, recipe={"seq-lenn": 1})
    assert "seq-len" in caught.value.hint and "recipe" in caught.value.where
    with pytest.raises(UsageError) as caught:
        resolve(Example, flags={"seq_len": "many"})
    assert caught.value.where == "--seq-len" and "many" in caught.value.problem
    with pytest.raises(UsageError):
        key_value("no-equals")


def test_several_values_after_one_option() -> None:
    SHAPES["example"] = Shape(2, frozenset({"--data"}), SWITCHES | {"--resume"}, frozenset({"--lr"}))
    try:
        assert spread(["example", "A", "B", "--data", "x", "y", "--lr", "1", "--data", "z"]) == (
            ["example", "A", "B", "--data", "x", "--data", "y", "--lr", "1", "--data", "z"]
        )
        assert spread(["example", "--data", "x", "A", "B"]) == ["example", "--data", "x", "A", "B"]
        assert spread(["example", "A", "B", "--json", "--data", "x", "y", "--quiet"]) == (
            ["example", "A", "B", "--json", "--data", "x", "--data", "y", "--quiet"]
        )
        # a switch takes no value, wherever it stands
        assert spread(["example", "A", "--resume", "B", "--data", "x", "y", "--resume"]) == (
            ["example", "A", "--resume", "B", "--data", "x", "--data", "y", "--resume"]
        )
        assert spread(["example", "A", "B", "--data=x", "y"]) == ["example", "A", "B", "--data=x", "y"]
        with pytest.raises(UsageError, match="--lr is given 2 times"):
            spread(["example", "A", "B", "--lr", "1", "--data", "x", "--lr=2"])
    finally:
        del SHAPES["example"]


@pytest.mark.parametrize(
    "words", [["--at", "1", "--at", "5"], ["--at", "1", "5"], ["--at", "1,5"], ["--at=1", "--at=5"]]
)
def test_numbers_may_be_given_one_by_one(words: list[str], stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["expand-layers", str(stories), "out", *words, "--print-config", "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["at"]["value"] == [1, 5]


def test_a_key_that_is_no_text_is_an_unknown_setting() -> None:
    with pytest.raises(UsageError, match="there is no setting '1'"):
        resolve(Example, recipe={1: 2})  # type: ignore[dict-item]


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "a:\n  b: 1\n  'b': 2\n", "[{a: 1, a: 1}]"])
def test_a_key_that_stands_twice_in_a_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match="stands twice"):
        read_yaml(tmp_path / "a.yaml")


def test_anchors_and_merges_are_no_second_keys(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}\nz: {<<: [*x], c: 4}\n")
    found = read_yaml(tmp_path / "a.yaml")
    assert found == {"x": {"a": 1, "b": 2}, "y": {"a": 3, "b": 2}, "z": {"a": 1, "b": 2, "c": 4}}
