"""What a person reads where the numbers are many, and how long an operation says that it took."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from run_cli import surgeon

from surgeon import operations
from surgeon.cli.commands.inspect import _with_spans
from surgeon.cli.output import Output


@pytest.fixture
def here(tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(stories, tmp_path / "base")
    (tmp_path / "text.jsonl").write_text('{"text": "Haemoglobin carries oxygen, haemophilia does not."}\n' * 20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_types_that_differ_in_the_same_way_are_one_line(here: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree("base", "half")
    held = {name: t.bfloat16() for name, t in load_file("base/model.safetensors").items()}
    held["model.norm.weight"] = held["model.norm.weight"].half()
    save_file(held, "half/model.safetensors", {"format": "pt"})
    done = surgeon("diff", "base", "half")
    said = [line for line in done.out.split("\n") if line.startswith("dtypes")]
    assert said == [f"dtypes: {len(held) - 1} tensors: F32 and BF16", "dtypes: model.norm.weight: F32 and F16"]
    assert len(json.loads(surgeon("diff", "base", "half", "--json").out)["dtypes"]) == len(held)


def test_a_small_difference_is_not_shown_as_none(here: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree("base", "near")
    held = load_file("near/model.safetensors")
    held["model.layers.2.mlp.up_proj.weight"][0, 0] += 1e-5
    save_file(held, "near/model.safetensors", {"format": "pt"})
    (row,) = (line for line in surgeon("diff", "base", "near").out.split("\n") if "2.mlp.up_proj" in line)
    shown = [float(cell) for cell in row.strip("│").split("│")[1:]]
    assert 0 < shown[1] < 1e-5 < shown[0] * 1.01 and shown[2] == 1


def test_rows_of_an_adapter_are_shown_as_spans(here: Path) -> None:
    surgeon("extend-vocab", "base", "wide", "--corpus", "text.jsonl", "--add", "9")
    assert surgeon("attach-adapter", "wide", "rows", "--preset", "new-tokens").code == 0
    shown = surgeon("inspect", "wide+rows").out
    assert "512-520" in shown and "513" not in shown
    assert "[512, 513, 514," in surgeon("inspect", "wide+rows", "--json").out
    assert (
        _with_spans([3, 5, 6, 7, 9]) == ["3", "5-7", "9"] and _with_spans([]) == [] and _with_spans([True]) == [True]
    )


def test_seconds_are_those_of_the_whole_operation(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call: Callable[..., object] = operations.Operation.call

    def slow(self: operations.Operation, *words: object) -> object:
        time.sleep(0.5)  # what a plan is made by: a probe, a search, merges that are learned
        return call(self, *words)

    monkeypatch.setattr(operations.Operation, "call", slow)
    done = surgeon("expand-layers", "base", "deep", "--add", "1", "--json")
    assert json.loads(done.out)["seconds"] >= 0.5


def test_a_name_in_a_table_is_shown_not_obeyed(here: Path) -> None:
    shutil.copy("text.jsonl", "text[red].jsonl")
    done = surgeon("evaluate", "base", "--data", "text[red].jsonl", "--tokens", "50")
    assert done.code == 0 and "text[red]" in done.out


def test_what_a_terminal_obeys_is_spelt_out(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table({}, "", ("corpus", "x"), [("a\x1b[31mb", "one\ntwo\u202e")])
    shown = capsys.readouterr().out
    assert "a\\x1b[31mb" in shown and "\x1b[31m" not in shown and "\u202e" not in shown
    assert "one" in shown and "two\\u202e" in shown and "one\\ntwo" not in shown


def test_a_token_in_a_check_is_shown_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table({}, "[/a]", ("check [/b]", ""), [("1 moved, such as '[/INST]'", "BROKEN")])
    shown = capsys.readouterr().out
    assert "[/a]" in shown and "[/b]" in shown and "'[/INST]'" in shown


def test_a_dry_run_says_what_is_in_its_way(stories: Path, tmp_path: Path) -> None:
    words = ("expand-layers", str(stories), str(tmp_path), "--add", "1", "--dry-run")
    done = surgeon(*words)
    assert done.code == 0 and f"{tmp_path} exists already: without --force this would be refused" in done.err
    assert "exists already" not in surgeon(*words, "--force").err
    assert "exists already" not in surgeon(*words[:2], str(tmp_path / "new"), *words[3:]).err


def test_a_dry_run_says_that_a_run_was_broken_off(stories: Path, tmp_path: Path) -> None:
    corpus, out = str(stories.parent / "general.valid.jsonl"), tmp_path / "out"
    words = ("cpt", str(stories), str(out), "--data", corpus, "--tokens", "64", "--seq-len", "32",
             "--batch-tokens", "32")  # fmt: skip
    assert surgeon(*words, "--save-every", "1", "--keep-state").code == 0
    out.rename(tmp_path / "away")
    told = f"{out}.run keeps the state of a run that was broken off"
    assert told in surgeon(*words, "--dry-run").err and "--resume goes on with it" in surgeon(*words).err
    for more in ("--resume", "--force"):
        assert told not in surgeon(*words, "--dry-run", more).err
