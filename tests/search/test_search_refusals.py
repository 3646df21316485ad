"""A search refuses what it must not read and what it cannot search, before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest
from search_models import trained

from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.plan import plan_merge
from surgeon.merge.settings import MergeSettings
from surgeon.search.held_out import corpora
from surgeon.search.plan import plan_merge_searched

TEXT = '{"text": "Once upon a time there was a little dog."}\n' * 4


@pytest.mark.parametrize(
    "place",
    [
        "x.test.jsonl", "gsm8k_test.jsonl", "test.jsonl", "TEST.jsonl", "my-test-questions.jsonl", "testset.txt",
        "test-00000-of-00001.jsonl", "test/x.jsonl", "tests/x.jsonl", "gsm8k_test/x.jsonl", "test_split/part/x.jsonl",
        "test-2/x.jsonl",
    ],
)  # fmt: skip
def test_test_sets_are_not_read(tmp_path_factory: pytest.TempPathFactory, place: str) -> None:
    path = tmp_path_factory.mktemp("texts") / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TEXT)
    with pytest.raises(SurgeonError, match="test set") as caught:
        corpora([f"held={path}"])
    assert "validation split" in caught.value.hint and place.rsplit("/")[-1] in caught.value.where


@pytest.mark.parametrize(
    "place",
    ["x.valid.jsonl", "latest.jsonl", "contest/x.jsonl", "attested.txt", "test_results/x.jsonl", "protest/x.txt"],
)
def test_words_that_only_hold_the_letters_are_no_test_sets(
    tmp_path_factory: pytest.TempPathFactory, place: str
) -> None:
    path = tmp_path_factory.mktemp("texts") / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TEXT)
    assert [c.path for c in corpora([f"held={path}"])] == [path]


def test_a_test_set_in_a_folder_or_behind_a_link_is_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.jsonl").write_text(TEXT)
    (folder / "b").mkdir()
    (folder / "b" / "x.test.jsonl").write_text(TEXT)
    with pytest.raises(SurgeonError, match=r"'x.test.jsonl' is called a test set"):
        corpora([f"held={folder}"])
    link = folder / "b" / "valid.jsonl"
    link.symlink_to(folder / "b" / "x.test.jsonl")
    with pytest.raises(SurgeonError, match="test set"):
        corpora([f"held={link}"])


@pytest.fixture(scope="module")
def models(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("models")
    return [str(trained(stories, root / f"m{n}", n)) for n in range(4)]


def refused(stories: Path, tmp_path: Path, add: list[str], **settings: Any) -> UsageError:
    held = f"general={stories.parent}/general.valid.jsonl"
    asked = MergeSettings(base=str(stories), out=tmp_path / "out", add=add, **{"search": [held]} | settings)
    with pytest.raises(UsageError) as caught:
        plan_merge_searched(asked)
    return caught.value


def test_methods_that_are_no_sums(stories: Path, tmp_path: Path, models: list[str]) -> None:
    for method in ("ties", "dare_linear", "breadcrumbs"):
        error = refused(stories, tmp_path, models[:1], method=method)
        assert method in error.problem and "no sum of deltas" in error.problem and "task_arithmetic" in error.hint


def test_weights_that_leave_nothing_or_too_much_to_search(stories: Path, tmp_path: Path, models: list[str]) -> None:
    assert "none is left" in refused(stories, tmp_path, [f"{models[0]}=0.5"]).problem
    error = refused(stories, tmp_path, models)
    assert "4 models" in error.problem and "MODEL=WEIGHT" in error.hint
    for weight in ("0.2,0.5,1", "0.5,attention:0"):
        error = refused(stories, tmp_path, [models[0], f"{models[1]}={weight}"])
        assert "depth or parts" in error.problem and weight in error.where


def test_objectives_and_names(stories: Path, tmp_path: Path, models: list[str]) -> None:
    error = refused(stories, tmp_path, models[:1], objective="generel")
    assert "generel" in error.problem and "general" in error.hint
    text = f"{stories.parent}/general.valid.jsonl"
    assert "two corpora" in refused(stories, tmp_path, models[:1], search=[f"a={text}", f"a={text}"]).problem
    assert "'mean'" in refused(stories, tmp_path, models[:1], search=[f"mean={text}"]).problem
    assert "weight" in refused(stories, tmp_path, models[:1], search=[f"a={text}:0.5"]).problem


def test_options_of_a_search_without_one(stories: Path, tmp_path: Path, models: list[str]) -> None:
    for name, value in (
        ("objective", "mean"), ("search_tokens", 5), ("search_range", (0, 2)), ("search_grid", 7),
        ("search_rounds", 0),
    ):  # fmt: skip
        error = refused(stories, tmp_path, models[:1], search=[], **{name: value})
        assert error.where == f"--{name.replace('_', '-')}" and error.hint == "add --search"


def test_ranges_and_grids_that_are_none(stories: Path, tmp_path: Path, models: list[str]) -> None:
    for wrong in ({"search_range": (1, 1)}, {"search_range": (0, float("inf"))}, {"search_grid": 2}):
        with pytest.raises(pydantic.ValidationError):
            MergeSettings(base=str(stories), out=tmp_path / "out", add=models[:1], **wrong)


def test_planning_given_weights_does_not_ignore_a_search(stories: Path, tmp_path: Path, models: list[str]) -> None:
    held = f"general={stories.parent}/general.valid.jsonl"
    with pytest.raises(UsageError, match="given weights"):
        plan_merge(MergeSettings(base=str(stories), out=tmp_path / "out", add=models[:1], search=[held]))


def test_a_loss_that_is_no_number_names_the_weights(stories: Path, tmp_path: Path, models: list[str]) -> None:
    held = f"general={stories.parent}/general.valid.jsonl"
    asked = MergeSettings(
        base=str(stories), out=tmp_path / "out", add=models[:1], search=[held], search_tokens=50,
        search_range=(0, 1e60), search_grid=3,
    )  # fmt: skip
    with pytest.raises(SurgeonError, match="not a number") as caught:
        plan_merge_searched(asked)
    assert "5e+59" in caught.value.where and "--search-range" in caught.value.hint
