"""What a recipe asks for that a run cannot do is refused before the first stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from surgeon.errors import SurgeonError, UsageError
from surgeon.recipe import load
from surgeon.run import Runner, fingerprint


def recipe(folder: Path, stages: dict[str, object], base: str = "base") -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"title": "a recipe", "inputs": {"base": base}, "stages": stages}))
    return path


def deeper(**settings: object) -> dict[str, object]:
    return {"run": "expand-layers", "uses": {"model": "base"}, "with": {"add": 1} | settings}


@pytest.mark.parametrize("name", ["a/b", "../a", "a+b", "a=1", "", "a\nb", "x" * 200])
def test_a_name_that_is_no_part_of_a_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="does not do as the name of a stage"):
        load(recipe(tmp_path, {name: deeper()}))


@pytest.mark.parametrize("name", ["deep", "sehr tief", "..", "ü", "x" * 60])
def test_other_names_do(tmp_path: Path, name: str, stories: Path) -> None:
    shutil.copytree(stories, tmp_path / "base")
    loaded = load(recipe(tmp_path, {name: deeper()}, str(tmp_path / "base")))
    record = Runner(loaded, tmp_path / "run").run()
    assert (tmp_path / "run" / record["stages"][0]["out"] / "config.json").is_file()


@pytest.mark.parametrize("key", ["out", "resume"])
def test_what_the_run_decides_is_not_set(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError, match=f"{key} of a stage is decided by the run"):
        load(recipe(tmp_path, {"deep": deeper(**{key: "x"})}))
    with pytest.raises(UsageError, match=f"{key} of a stage is decided by the run"):
        load(recipe(tmp_path, {"deep": deeper()}), [f"deep.{key}=x"])


def test_a_text_too_long_for_a_path_is_a_text() -> None:
    assert fingerprint({"text": "x" * 5000}) == {"text": "x" * 5000}
    assert fingerprint(["name=" + "x" * 300 + "+" + "y" * 300]) == ["name=" + "x" * 300 + "+" + "y" * 300]


@pytest.mark.parametrize("out", ["base", "base/run"])
def test_a_run_leaves_nothing_in_an_input(tmp_path: Path, out: str, stories: Path) -> None:
    shutil.copytree(stories, tmp_path / "base")
    (tmp_path / "base").chmod(0o755)
    before = sorted(path.name for path in (tmp_path / "base").iterdir())
    loaded = load(recipe(tmp_path, {"deep": deeper()}, str(tmp_path / "base")))
    with pytest.raises(SurgeonError, match="inside an input"):
        Runner(loaded, tmp_path / out).run()
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == before


def test_a_damaged_result_is_removed_and_made_again(tmp_path: Path, stories: Path) -> None:
    shutil.copytree(stories, tmp_path / "base")
    loaded = load(recipe(tmp_path, {"deep": deeper()}, str(tmp_path / "base")))
    made = Runner(loaded, tmp_path / "run").run()["stages"][0]["result"]["plan_digest"]
    (result,) = (tmp_path / "run" / "results").iterdir()
    result.write_text("{")
    with pytest.raises(SurgeonError) as refused:
        Runner(loaded, tmp_path / "run").run()
    assert refused.value.where == str(result) and refused.value.hint == "remove it, and run the recipe again"
    result.unlink()
    assert Runner(loaded, tmp_path / "run").run()["stages"][0]["result"]["plan_digest"] == made
