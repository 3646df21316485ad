"""Two models whose folders have one name are told apart wherever the merge speaks of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from merge_models import trained
from test_merge_inputs import with_adapter

from surgeon.checkpoint.lineage import read_lineage
from surgeon.errors import UsageError
from surgeon.measure.vectors import vectors
from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute
from surgeon.search.record import SearchedVector, SearchRecord


@pytest.fixture
def runs(stories: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two runs that end in a folder called final; the second one has no lineage."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = trained(stories, tmp_path / "one" / "final", 1)
    return one, trained(stories, tmp_path / "two" / "final", 2, lineage=False)


def test_vectors_have_two_names(stories: Path, runs: tuple[Path, Path]) -> None:
    one, two = runs
    found = vectors(stories, [two, one])
    assert found["models"] == ["two/final", "one/final"] and list(found["kinship"]) == ["two/final"]
    assert {p["a"] for p in found["pairs"]} | {p["b"] for p in found["pairs"]} == {"two/final", "one/final"}
    assert vectors(stories, [one])["models"] == ["final"]


def test_a_merge_has_two_names(stories: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = runs
    (two / "chat_template.jinja").write_text("chat")
    common: dict[str, Any] = {"base": str(stories), "add": [f"{one}=1", f"{two}=0.5"]}
    plan = plan_merge(MergeSettings(out=tmp_path / "out", **common))
    assert {i.name for i in plan.inputs} == {stories.name, "one/final", "two/final"}
    assert plan.lineage.merge is not None
    assert plan.lineage.merge["files_from"] == {"chat_template.jinja": "two/final"}
    found = execute(plan, tmp_path / "out").to_json()["vectors"]
    assert sorted(found["models"]) == ["one/final", "two/final"]
    told = plan_merge(MergeSettings(out=tmp_path / "x", chat="two/final", **common))
    assert told.tensors == plan.tensors
    with pytest.raises(UsageError, match="no 'final' in this merge"):
        plan_merge(MergeSettings(out=tmp_path / "x", chat="final", **common))


def test_a_merge_without_a_base_has_two_names(runs: tuple[Path, Path], tmp_path: Path) -> None:
    plan = plan_merge_models(MergeModelsSettings(method="linear", out=tmp_path / "x", models=[*map(str, runs)]))
    assert {i.name for i in plan.inputs} == {"one/final", "two/final"}


def test_as_many_folders_as_it_takes(stories: Path, tmp_path: Path) -> None:
    deep = [tmp_path / a / "run" / "final" for a in ("left", "right")]
    for number, folder in enumerate(deep):
        folder.parent.mkdir(parents=True)
        trained(stories, folder, number + 1)
    assert vectors(stories, deep)["models"] == ["left/run/final", "right/run/final"]


def test_one_model_in_two_places_has_one_name(stories: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    one, _ = runs
    copy = tmp_path / "three" / "final"
    shutil.copytree(one, copy)
    settings = MergeSettings(base=str(stories), out=tmp_path / "x", add=[f"{one}=0.5"], onto=str(copy))
    assert {i.name for i in plan_merge(settings).inputs} == {stories.name, "final"}


def test_one_adapter_on_two_models_has_two_names(stories: Path, tmp_path: Path) -> None:
    adapter = with_adapter(stories, tmp_path, "adapter")
    add = [f"{trained(stories, tmp_path / name, number)}+{adapter}" for number, name in enumerate(("one", "two"))]
    names = ["one+adapter", "two+adapter"]
    plan = plan_merge(MergeSettings(base=str(stories), out=tmp_path / "out", add=[f"{text}=0.5" for text in add]))
    assert {i.name for i in plan.inputs} == {stories.name, "one", "two", *names}
    found = execute(plan, tmp_path / "out").to_json()["vectors"]
    assert sorted(found["models"]) == names
    assert sorted(found["total"]["pairs"][0][key] for key in "ab") == names
    lineage = read_lineage(tmp_path / "out")
    assert lineage is not None and {*names} < {parent.name for parent in lineage.parents}
    assert vectors(stories, add)["models"] == names
    linear = plan_merge_models(MergeModelsSettings(method="linear", out=tmp_path / "x", models=add))
    assert {*names} < {i.name for i in linear.inputs}


def test_a_search_names_one_adapter_on_two_models() -> None:
    vectors = [SearchedVector(digest=name, adapter="ad") for name in ("one", "two")]
    known = {"one": "left/one", "two": "two", "ad": "two+final"}
    record = SearchRecord.model_construct(vectors=vectors)
    assert record.names(known) == ["left/one+final", "two+final"]
    assert record.names(known | {"ad": "final"}) == ["left/one+final", "two+final"]  # as older records have it
