"""Checkpoints whose JSON files are valid and say nonsense: three lines that name the folder or the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_cli import Done, surgeon
from safetensors.torch import load_file


@pytest.fixture
def model(stories: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in stories.iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


def said(done: Done) -> str:
    assert done.code == 1 and done.out == "", done
    lines = done.err.rstrip("\n").split("\n")[-3:]
    assert [line.split(":")[0].strip() for line in lines] == ["error", "where", "mend"], done.err
    assert "unexpected" not in done.err
    return done.err


@pytest.mark.parametrize("named", ["LlamaForCausalLM", [3], {"a": 1}, [None], 7])
def test_architectures_that_are_no_list_of_names(model: Path, named: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": named}))
    assert "architectures is" in said(surgeon("inspect", str(model), "--json"))


@pytest.mark.parametrize("place", [lambda folder: folder / "model.safetensors", lambda folder: "../model.safetensors"])
def test_an_index_that_names_a_file_of_another_folder(model: Path, place: Callable[[Path], object]) -> None:
    shutil.copytree(model, model.parent / "sharded")
    index = model.parent / "sharded" / "model.safetensors.index.json"
    (model.parent / "sharded" / "model.safetensors").unlink()
    (model / "model.safetensors").replace(model.parent / "model.safetensors")
    shard = str(place(model.parent))
    names = load_file(model.parent / "model.safetensors")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, shard)}))
    assert "no file of this folder" in said(surgeon("inspect", str(index.parent), "--json"))


@pytest.mark.parametrize(
    ("name", "text"), [("tokenizer_config.json", "[]"), ("config.json", None), ("tokenizer.json", "{}")]
)
def test_files_that_the_library_stumbles_over(model: Path, name: str, text: str | None) -> None:
    path = model / name
    path.write_text(text or json.dumps(json.loads(path.read_text()) | {"dtype": "nothing"}))
    (model / "text.txt").write_text("Once upon a time there was a little dog.")
    words = ("evaluate", str(model), "--data", str(model / "text.txt"), "--json")
    assert f"where: {model}" in said(surgeon(*words))
