"""Recipes of papers: at the scale tiny each is carried out and shows what its method promises; at the paper's own
scale every setting, method and schedule of it is one that surgeon takes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from paper_properties import PROPERTIES
from recipe_run import TEXTS, Ran
from run_cli import surgeon

from surgeon.operations import operation
from surgeon.recipe import load, recipes_dir, stage_settings
from surgeon.train.batch_ramp import parse_ramp
from surgeon.train.settings import CptSettings, methods
from surgeon.train.shape import resolve_shape
from surgeon.verify import verify

PAPERS = sorted(p.stem for p in recipes_dir().glob("*.yaml") if p.stem != "quickstart")


def test_every_recipe_has_a_property() -> None:
    assert sorted(PROPERTIES) == PAPERS


@pytest.mark.parametrize("name", PAPERS)
def test_at_the_scale_tiny(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = surgeon("run", name, "--set", "scale=tiny", "--json")
    assert done.code == 0, done.err
    value = json.loads(done.out)
    folder = tmp_path / "runs" / f"{name}-tiny"
    assert Path(value["out"]).absolute() == folder and (folder / "report.html").is_file() and value["scale"] == "tiny"
    ran = Ran(folder, value, TEXTS / "model")
    for stage in value["stages"]:
        if stage["out"] is not None:
            assert verify(folder / stage["out"])["holds"], stage["name"]
    assert all(c["nats_per_token"] > 0 for m in ran.result("table")["models"] for c in m["corpora"])
    PROPERTIES[name](ran)
    again = json.loads(surgeon("run", name, "--set", "scale=tiny", "--dry-run", "--json").out)
    assert {s["state"] for s in again["stages"]} == {"done"}


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with the context of a large one: rows of the papers' lengths are none for the one that ships."""
    folder = tmp_path_factory.mktemp("roomy") / "model"
    shutil.copytree(TEXTS / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 17}))
    return folder


def given(path: Path, model: Path) -> list[str]:
    """`--set` of everything that a recipe leaves to a person: a number where the name says tokens of epochs, a model
    where it says so, else a corpus."""
    import yaml

    unset = [k for k, v in yaml.safe_load(path.read_text())["vars"].items() if v is None]
    kinds = [k if "epoch" in k or k == "model" else "corpus" for k in unset]
    values = {"model": model, "corpus": TEXTS / "general.valid.jsonl"}
    return [f"vars.{k}={values.get(kind, '1B')}" for k, kind in zip(unset, kinds, strict=True)]


@pytest.mark.parametrize("name", PAPERS)
def test_at_the_scale_of_the_paper(name: str, roomy: Path) -> None:
    path = recipes_dir() / f"{name}.yaml"
    bare = surgeon("run", name, "--dry-run")
    sets = given(path, roomy)
    assert bare.code == 2 and all(f"--set {s.partition('=')[0]}=" in bare.err for s in sets) and sets
    done = surgeon("run", name, "--dry-run", "--json", *(word for s in sets for word in ("--set", s)))
    assert done.code == 0, done.err
    recipe = load(path, sets).recipe
    assert json.loads(done.out)["scale"] == "paper" and len(json.loads(done.out)["stages"]) == len(recipe.stages)
    for stage_name, stage in recipe.stages.items():
        if stage.run == "cpt":
            check_training(CptSettings(**stage_settings(stage, lambda used: used), out=stage_name))
        assert operation(stage.run).name == stage.run


def test_the_length_curriculum_that_long_context_names(roomy: Path) -> None:
    """Of 95,368 steps the first 40 % have rows of 4,096 tokens; a step has as many tokens as before."""
    path = recipes_dir() / "long-context.yaml"
    change = load(path, given(path, roomy)).recipe.about.partition("--set ")[2].split()[0]
    stage = load(path, [*given(path, roomy), change]).recipe.stages["long"]
    settings = CptSettings(**stage_settings(stage, lambda used: used), out="long")
    shape = resolve_shape(settings, 32768, torch.device("cpu"))
    assert shape.steps == math.ceil(400e9 / 4194304) == 95368
    assert [(s.stop, s.seq_len, s.rows) for s in shape.spans] == [(38147, 4096, 1024), (95368, 32768, 128)]


def check_training(settings: CptSettings) -> None:
    """Its methods take their options, its rows fit into a step, its schedule into the steps."""
    chosen = methods(settings)
    assert settings.seq_len and settings.batch_tokens and settings.batch_tokens >= settings.seq_len
    total = math.ceil(settings.all_tokens / (settings.batch_tokens // settings.seq_len * settings.seq_len))
    if settings.batch_ramp:
        rows = settings.batch_tokens // settings.seq_len
        total = parse_ramp(settings.batch_ramp, settings.seq_len, rows).steps(
            math.ceil(settings.all_tokens / settings.seq_len)
        )
    schedule, options = chosen["schedule"][0]
    factors = [schedule.call({"step": step, "total": total}, options) for step in (1, total // 2, total)]
    assert all(0 <= f <= 1 for f in factors) and max(factors) > 0.05


@pytest.mark.parametrize("name", PAPERS)
def test_the_file_says_what_it_is(name: str) -> None:
    text = (recipes_dir() / f"{name}.yaml").read_text()
    head: Sequence[str] = text.split("\ntitle: ")[0].splitlines()
    assert all(line.startswith("#") for line in head)
    said = " ".join(line.lstrip("# ") for line in head)
    assert "arXiv" in said and "Needs: " in said and "ours" in said
    assert f"surgeon run {name} --set scale=tiny" in said
    assert all(s.partition("=")[0] in said for s in given(recipes_dir() / f"{name}.yaml", TEXTS / "model"))
