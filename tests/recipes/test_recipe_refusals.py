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


WRONG: dict[str, dict[str, object]] = {
    "there is no selector": deeper(select="unifrm"),
    "there is no fill": deeper(fill="zeroo"),
    "has no option 'a'": deeper(option_fill={"a": 1}),
    "there is no init": {"run": "extend-vocab", "uses": {"model": "base"}, "with": {"tokens": "t", "init": "meen"}},
    "one of --add, --tokens": {"run": "extend-vocab", "uses": {"model": "base"}},
    "there is no adapter": {"run": "attach-adapter", "uses": {"model": "base"}, "with": {"kind": "lorra"}},
    "there is no merge 'ties2'": {
        "run": "merge-task-vectors", "uses": {"base": "base", "add": ["deep=1"]}, "with": {"method": "ties2"}
    },
    "there is no merge 'liner'": {"run": "merge", "uses": {"models": ["base", "deep"]}, "with": {"method": "liner"}},
    "there is no schedule": {
        "run": "cpt", "uses": {"model": "base"}, "with": {"data": ["CORPUS"], "tokens": 9, "schedule": "lineer"}
    },
    "there is no such corpus": {"run": "evaluate", "uses": {"models": ["deep"]}, "with": {"data": ["late.jsonl"]}},
    "probes|no such corpus": {
        "run": "cpt", "uses": {"model": "deep"},
        "with": {"data": ["CORPUS"], "tokens": 9, "regularize": ["ewc:probe=late.jsonl"]},
    },
}  # fmt: skip


@pytest.mark.parametrize("problem", WRONG)
def test_wrong_words_of_a_late_stage(tmp_path: Path, problem: str, stories: Path) -> None:
    """The stage before them may take days: nothing is done of it."""
    late = yaml.safe_load(yaml.safe_dump(WRONG[problem]).replace("CORPUS", str(stories.parent / "domain.valid.jsonl")))
    loaded = load(recipe(tmp_path, {"deep": deeper(), "late": late}, str(stories)))
    for asked in (Runner(loaded, tmp_path / "run").run, Runner(loaded, tmp_path / "run").plan):
        with pytest.raises(SurgeonError, match=problem) as refused:
            asked()
        assert f"{tmp_path / 'recipe.yaml'}: stage late, " in str(refused.value.where)
    assert not (tmp_path / "run").exists()


def test_an_input_that_is_no_model(tmp_path: Path) -> None:
    loaded = load(recipe(tmp_path, {"deep": deeper()}, str(tmp_path / "nothing")))
    with pytest.raises(SurgeonError, match="there is no such folder") as refused:
        Runner(loaded, tmp_path / "run").run()
    assert "input base" in str(refused.value.where) and not (tmp_path / "run").exists()
    Runner(load(recipe(tmp_path, {"deep": deeper()}, "org/model")), tmp_path / "run").plan()  # the hub is not asked


def test_keys_follow_what_options_and_weights_that_vary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another corpus or model in the place of the one that was read is another stage."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "far").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "texts" / "circle").symlink_to(tmp_path / "texts")
    texts = [tmp_path / "model" / "config.json", tmp_path / "old.jsonl", tmp_path / "far" / "a.jsonl"]
    values = [
        "model=-1",
        "model=0.5,attention:0,1,mlp:0.3",
        "ewc:probe=old.jsonl,strength=2",
        "ewc:strength=2,probe=n=old.jsonl",
        "texts",
    ]
    seen = []
    for content in ("one", "two"):
        for text in texts:
            text.write_text(content)
        seen.append(fingerprint(values))
    assert all(before != after for before, after in zip(*seen, strict=True)), seen
    assert seen[0][2].startswith("ewc:probe=sha256:") and seen[0][2].endswith(",strength=2")
    plain = ["0.5:general=1,domain=3", "embed:lr=0.1,weight_decay=0", "wsd:decay=0.2", "absent=-1"]
    assert fingerprint(plain) == plain
