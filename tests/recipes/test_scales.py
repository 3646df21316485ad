"""Scales: what `--set scale=NAME` puts over a recipe, what goes over it, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_cli import surgeon

from surgeon.errors import UsageError
from surgeon.recipe import find, load, recipes_dir

TEXT = """
title: t
vars: {corpus: null, tokens: 1B}
inputs: {base: org/base, other: org/other}
stages:
  deep: {run: expand-layers, uses: {model: base}, with: {add: 8, shard-bytes: 1M}}
  taught:
    run: cpt
    uses: {model: deep}
    with: {data: ["a=${corpus}"], tokens: "${tokens}"}
  merged: {run: merge, uses: {models: [taught, other]}, with: {method: linear}}
scales:
  tiny:
    inputs.base: ${here}/model
    inputs.other: {run: expand-layers, uses: {model: base}, with: {add: 1}}
    vars.corpus: ${here}/a.jsonl
    vars.tokens: 1k
    deep.add: 1
    deep.shard_bytes: null
  small:
    vars.tokens: 1M
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "r.yaml"
    found.write_text(TEXT)
    return found


def refusal(path: Path, *sets: str, text: str = TEXT) -> UsageError:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(path, sets)
    return caught.value


def test_a_scale_is_a_list_of_values(path: Path) -> None:
    """The same recipe as with every value set by hand; an input that a stage makes comes before all stages."""
    loaded = load(path, ["scale=tiny"])
    recipe, here = loaded.recipe, path.parent
    assert (loaded.scale, loaded.folder_name) == ("tiny", "r-tiny")
    assert recipe.inputs == {"base": f"{here}/model"}
    assert list(recipe.stages) == ["other", "deep", "taught", "merged"]
    # spelt as the file spells it
    assert recipe.stages["deep"].settings == {"add": 1, "shard-bytes": None}
    assert recipe.stages["taught"].settings == {"data": [f"a={here}/a.jsonl"], "tokens": "1k"}


def test_the_paper_is_the_file(path: Path) -> None:
    for sets in ([], ["scale=paper"]):
        loaded = load(path, [*sets, "vars.corpus=a.jsonl"])
        assert (loaded.scale, loaded.folder_name) == ("paper", "r")
        assert loaded.recipe.inputs == {"base": "org/base", "other": "org/other"}
        assert loaded.recipe.stages["deep"].settings == {"add": 8, "shard-bytes": "1M"}


def test_what_is_set_goes_over_a_scale_wherever_it_stands(path: Path) -> None:
    for sets in (["scale=tiny", "vars.tokens=2k"], ["vars.tokens=2k", "scale=tiny"]):
        assert load(path, sets).recipe.stages["taught"].settings["tokens"] == "2k"
    sets = ["scale=tiny", "deep.shard-bytes=5", "other.add=3"]
    stages = load(path, sets).recipe.stages
    assert stages["deep"].settings == {"add": 1, "shard-bytes": 5} and stages["other"].settings == {"add": 3}


def test_refusals(path: Path) -> None:
    def words(*sets: str, text: str = TEXT) -> str:
        error = refusal(path, *sets, text=text)
        return f"{error.problem} | {error.where} | {error.hint}"

    assert "did you mean 'tiny'" in words("scale=tny")
    assert "known: paper, tiny, small" in words("scale=99")
    assert "two scales" in words("scale=tiny", "scale=small")
    assert "did you mean 'tokens'" in words("scale=tiny", text=TEXT.replace("vars.tokens: 1k", "vars.token: 1k"))
    assert "did you mean 'deep'" in words("scale=tiny", text=TEXT.replace("deep.add: 1", "depe.add: 1"))
    assert "did you mean 'add'" in words("scale=tiny", text=TEXT.replace("deep.add: 1", "deep.ad: 1"))
    assert "no inputs 'bas'" in words("scale=tiny", text=TEXT.replace("inputs.base", "inputs.bas"))
    assert "is no mapping" in words("scale=tiny", text=TEXT[: TEXT.index("scales:")] + "scales: {tiny: 3}\n")
    assert "the file itself" in words(text=TEXT.replace("  small:", "  paper:"))
    # a stage takes what it uses from there, whatever is set beside it
    assert "uses 'base' as its model" in words("deep.model=elsewhere", "vars.corpus=a")
    assert "not one value" in words("vars.corpus=[a, b]")


def test_what_a_person_must_set(path: Path) -> None:
    """All of it is said at once, with the way out."""
    error = refusal(path, "vars.tokens=null")
    assert "corpus, tokens" in error.problem
    assert error.hint == "--set vars.corpus=... --set vars.tokens=..., or --set scale=tiny or --set scale=small"
    assert "corpus" in refusal(path, "scale=small").problem
    path.write_text(TEXT.replace('"a=${corpus}"', '"a=b"'))
    assert load(path).recipe.vars["corpus"] is None  # nothing asks for it


def test_values_of_later_stages_are_refused_before_the_first(path: Path) -> None:
    error = refusal(path, "vars.corpus=a", "taught.tokens=many")
    assert "many" in error.problem and "stage taught" in error.where


def test_a_dry_run_prints_the_stages_as_they_will_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    shutil.copytree(recipes_dir() / "quickstart" / "model", path.parent / "model")
    (path.parent / "a.jsonl").write_text('{"text": "a"}\n')
    done = surgeon("run", str(path), "--set", "scale=tiny", "--dry-run")
    assert done.code == 0, done.err
    printed = done.out[done.out.index("inputs") :]
    assert f"base: {path.parent}/model" in printed and "deep: expand-layers" in printed
    assert "  add: 1\n" in printed and f"  - a={path.parent}/a.jsonl\n" in printed and "  model: deep\n" in printed
    value = json.loads(surgeon("run", str(path), "--set", "scale=tiny", "--dry-run", "--json").out)
    assert value["scale"] == "tiny" and value["out"] == "runs/r-tiny"
    assert value["stages"][1]["settings"]["add"] == 1 and value["inputs"] == {"base": f"{path.parent}/model"}
    assert not (path.parent / "runs").exists()


def test_a_copied_recipe_has_the_folders_that_it_names(tmp_path: Path) -> None:
    done = surgeon("recipes", "cp", "llama-pro", str(tmp_path / "mine"))
    assert done.code == 0, done.err
    loaded = load(tmp_path / "mine" / "llama-pro.yaml", ["scale=tiny"])
    base = Path(loaded.recipe.inputs["base"])
    assert base == tmp_path / "mine" / "quickstart" / "model" and (base / "model.safetensors").is_file()


@pytest.mark.parametrize("shipped", sorted(p.stem for p in recipes_dir().glob("*.yaml")))
def test_every_recipe_that_ships_is_carried_out_at_the_scale_tiny(shipped: str) -> None:
    assert load(find(shipped), ["scale=tiny"]).folder_name == f"{shipped}-tiny"
