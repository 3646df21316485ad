"""The card of a folder that is changed in its place: made anew where nobody touched it, left alone otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from in_place_runs import in_place, insertable
from test_identity import expanded

from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.ops.execute import execute


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return insertable(tmp_path)


def test_the_card_is_of_the_model_that_is_there(stories: Path, place: Path) -> None:
    model = place / "model"
    shutil.copytree(stories, model)
    in_place(model, at=[1])
    other = expanded(stories, place / "other", at=[1])
    first = (model / "README.md").read_text()
    assert first == (other / "README.md").read_text()
    in_place(model, at=[0])
    second = (model / "README.md").read_text()
    assert "2. **expand-layers** of step 1: of 7 blocks, counted from 0, new are 1, made from 0." in second


@pytest.mark.parametrize("written", ["# mine\n", "edited"])
def test_what_somebody_wrote_stays(
    stories: Path, place: Path, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = place / "model"
    shutil.copytree(stories, model)
    if written == "edited":
        in_place(model, at=[1])
        written = (model / "README.md").read_text() + "mine\n"
    (model / "README.md").write_text(written)
    in_place(model, at=[0])
    assert (model / "README.md").read_text() == written


def test_a_card_that_tells_of_two_licences_is_its_own_too(stories: Path, place: Path) -> None:
    model = place / "model"
    for name, licence in (("a", "mit"), ("b", "apache-2.0")):
        shutil.copytree(stories, place / name)
        (place / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    settings = MergeModelsSettings(method="linear", models=[str(place / "a"), str(place / "b")], out=model)
    execute(plan_merge_models(settings), model)
    in_place(model, at=[1])
    assert "2. **expand-layers** of step 1" in (model / "README.md").read_text()
