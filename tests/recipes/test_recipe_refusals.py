"""What a recipe asks for that a run cannot do is refused before the first stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from surgeon.errors import SurgeonError, UsageError
from surgeon.recipe import checked_settings, load
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
    "needs the number of blocks": {"run": "expand-layers", "uses": {"model": "base"}},
    "probes the model on a text": deeper(select="importance"),
    "writes an output of its own": deeper(in_place=True),
    "--undo takes blocks out": deeper(undo=True),
    "there is no such file": {"run": "extend-vocab", "uses": {"model": "deep"}, "with": {"tokens": "late.txt"}},
    "there is no such folder: donor|no such folder": {
        "run": "extend-vocab", "uses": {"model": "deep"},
        "with": {"corpus": ["CORPUS"], "add": 4, "init": "omp", "option": {"donor": "late"}},
    },
    "there is no script": {
        "run": "extend-vocab", "uses": {"model": "deep"}, "with": {"corpus": ["CORPUS"], "add": 4, "script": "Tamli"}
    },
    "nothing is to be changed": {"run": "extend-context", "uses": {"model": "deep"}},
    "there is no rotary scaling": {
        "run": "extend-context", "uses": {"model": "deep"}, "with": {"rope_scaling": "yaarn:4"}
    },
    "there is no preset": {"run": "attach-adapter", "uses": {"model": "deep"}, "with": {"preset": "new-token"}},
    "there is no adapter to fold": {"run": "fold-adapter", "uses": {"model": "deep"}},
    "there is no dtype 'bf16'": {
        "run": "merge-task-vectors", "uses": {"base": "base", "add": ["deep"]}, "with": {"dtype": "bf16"}
    },
    "the weight does not parse": {"run": "merge-task-vectors", "uses": {"base": "base", "add": ["deep=x"]}},
    "there is no such folder|no model of the stage": {
        "run": "merge-task-vectors", "uses": {"base": "base"}, "with": {"add": ["./late/model=-1"]}
    },
    "this is not the surgeon.json": {
        "run": "merge-task-vectors", "uses": {"base": "base", "add": ["deep"]}, "with": {"lineage": "late.json"}
    },
    "there is no objective 'min-mxa'": {
        "run": "merge-task-vectors", "uses": {"base": "base", "add": ["deep"]},
        "with": {"search": ["CORPUS"], "objective": "min-mxa"},
    },
    "needs the model that it is added to": {
        "run": "merge-task-vectors", "uses": {"base": "base", "add": ["deep"]}, "with": {"method": "residual"}
    },
    "slerp is between two models": {
        "run": "merge", "uses": {"models": ["base", "deep", "base"]}, "with": {"method": "slerp", "option": {"t": 0.5}}
    },
    "sequence needs --policy": {
        "run": "merge", "uses": {"models": ["base", "deep"]}, "with": {"method": "sequence", "weight": 0.5}
    },
    "is neither a number nor a file": {"run": "average", "uses": {"run": "deep"}, "with": {"weights": "emma:0.2"}},
    "nor a regular expression": {
        "run": "cpt", "uses": {"model": "deep"}, "with": {"data": ["CORPUS"], "tokens": 9, "train": "("}
    },
    "does not hold one row of 128": {
        "run": "cpt", "uses": {"model": "deep"},
        "with": {"data": ["CORPUS"], "tokens": 9, "seq-len": 128, "batch-tokens": 64},
    },
    "does not learn from another model": {
        "run": "cpt", "uses": {"model": "deep", "teacher": "base"}, "with": {"data": ["CORPUS"], "tokens": 9}
    },
    "there is no exporter": {
        "run": "cpt export", "uses": {"model": "deep"}, "with": {"data": ["CORPUS"], "tokens": 9, "to": "nemo"}
    },
    "two eval corpora": {
        "run": "cpt anneal", "uses": {"run": "deep"},
        "with": {"data": ["CORPUS"], "tokens": 9, "eval": ["CORPUS", "CORPUS"]},
    },
    "two corpora are called": {
        "run": "evaluate", "uses": {"models": ["deep"]}, "with": {"data": ["CORPUS", "CORPUS"]}
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


RIGHT: dict[str, dict[str, object]] = {
    "tokens of a stage": {"run": "extend-vocab", "uses": {"model": "base", "tokens-of": "deep"}},
    "a model before and a model given": {
        "run": "merge-task-vectors", "uses": {"base": "base", "add": ["deep=0.5,attention:0,1"]},
        "with": {"add": ["BASE=-1"]},
    },
    "a run that a stage left": {"run": "average", "uses": {"run": "deep"}, "with": {"weights": "ema:0.2", "last": 3}},
    "rows as long as the model takes": {
        "run": "cpt", "uses": {"model": "deep"}, "with": {"data": ["CORPUS"], "tokens": 9}
    },
    "a corpus among the inputs": {"run": "cpt", "uses": {"model": "deep", "data": ["text"]}, "with": {"tokens": 9}},
    "a state among the inputs": {
        "run": "cpt anneal", "uses": {"run": "state"}, "with": {"data": ["CORPUS"], "tokens": 9}
    },
    "weights that vary": {
        "run": "merge", "uses": {"models": ["base=0,attention:1", "deep=0,mlp:1"]}, "with": {"method": "linear"}
    },
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_a_stage_that_is_not_refused_early(tmp_path: Path, case: str, stories: Path) -> None:
    state = tmp_path / "state-4.pt"
    state.write_bytes(b"a state")
    corpus = stories.parent / "domain.valid.jsonl"
    late = yaml.safe_dump(RIGHT[case]).replace("CORPUS", str(corpus)).replace("BASE", str(stories))
    path = recipe(tmp_path, {"deep": deeper(), "late": yaml.safe_load(late)}, str(stories))
    value = yaml.safe_load(path.read_text())
    value["inputs"] |= {"state": str(state), "text": str(corpus)}
    value["inputs"] = {k: v for k, v in value["inputs"].items() if k == "base" or k in late}
    path.write_text(yaml.safe_dump(value))
    assert [s["state"] for s in Runner(load(path), tmp_path / "run").plan()] == ["to do", "to do"]


@pytest.mark.parametrize(
    "stage",
    [
        {"run": "expand-layers", "uses": {"model": "base"}, "with": {"model": "other", "add": 1}},
        {"run": "cpt", "uses": {"model": "base"}, "with": {"seq-len": 64, "seq_len": 128, "data": ["a"], "tokens": 9}},
        {"run": "extend-vocab", "uses": {"model": "base", "tokens-of": "base", "tokens_of": "base"}},
        {"run": "average", "uses": {"run": "base"}, "with": {"run": "other"}},
    ],
)
def test_a_setting_stands_once(tmp_path: Path, stage: dict[str, object]) -> None:
    """The one that came last was taken, without a word."""
    with pytest.raises(UsageError, match="stands twice"):
        load(recipe(tmp_path, {"late": stage}))


def test_models_of_the_stage_and_of_the_run_are_both_taken(tmp_path: Path) -> None:
    stage = {"run": "evaluate", "uses": {"models": ["base"]}, "with": {"models": "another", "data": ["a"]}}
    assert checked_settings("late", load(recipe(tmp_path, {"late": stage})).recipe.stages["late"]).model_dump()[
        "models"
    ] == ["another", "base"]


def test_a_truth_is_no_number(tmp_path: Path) -> None:
    """YAML reads `on` as true, which pydantic takes for 1."""
    with pytest.raises(UsageError, match="add: true is neither a number nor a text") as refused:
        load(recipe(tmp_path, {"deep": deeper(add=True)}))
    assert refused.value.where == f"{tmp_path / 'recipe.yaml'}: stage deep, recipe add"
    with pytest.raises(UsageError, match="script: false is neither"):
        late = {"run": "extend-vocab", "uses": {"model": "base"}, "with": {"corpus": ["a"], "add": 1, "script": False}}
        load(recipe(tmp_path, {"late": late}))
    late = {"run": "cpt", "uses": {"model": "base"}, "with": {"data": ["a"], "tokens": 9, "compile": False}}
    load(recipe(tmp_path, {"late": late}))


def test_a_stage_is_done_again_where_a_method_of_ones_own_has_changed(
    tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_selector.py").write_text("def last(depth, count):\n    return [depth - 1]\n")
    loaded = load(recipe(tmp_path, {"deep": deeper(select="own_selector:last")}, str(stories)))
    Runner(loaded, tmp_path / "run").run()
    assert [s["state"] for s in Runner(loaded, tmp_path / "run").plan()] == ["done"]
    (tmp_path / "own_selector.py").write_text("def last(depth, count):\n    return [depth - 2]\n")
    assert [s["state"] for s in Runner(loaded, tmp_path / "run").plan()] == ["to do"]
    for text in ("reptile:every=3", "no_such.module:name", "hf:org/set", "a:b"):
        assert fingerprint(text) == text


@pytest.mark.parametrize(
    ("uses", "advice"),
    [
        ({"model": "base", "adapter": "ad"}, "`model: base+ad`"),
        ({"model": "base", "adapters": ["ad", "other"]}, "`model: base+ad+other`"),
        ({"adapter": "ad"}, "`model: MODEL+ad`"),
    ],
)
def test_an_adapter_stands_behind_its_model(tmp_path: Path, uses: dict[str, object], advice: str) -> None:
    stage = {"run": "cpt", "uses": uses, "with": {"data": ["a"], "tokens": 9, "train": "adapter"}}
    with pytest.raises(UsageError, match="cpt has no setting 'adapter") as refused:
        load(recipe(tmp_path, {"trained": stage}))
    assert refused.value.hint == f"an adapter stands behind its model: write {advice}"
