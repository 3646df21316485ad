"""Forgetting and transfer over a sequence of trainings: a matrix by hand, and runs that change nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_cli import surgeon

from surgeon.errors import UsageError
from surgeon.measure.matrix import check_stages, transfer


def of(rows: list[list[float]], names: str) -> dict[str, Any]:
    """The JSON of evaluate, as far as it is read."""
    return {
        "models": [
            {"model": str(i), "corpora": [{"name": n, "bits_per_byte": v} for n, v in zip(names, row, strict=True)]}
            for i, row in enumerate(rows)
        ]
    }


def test_three_stages_by_hand() -> None:
    """R[i, j] of the base and three stages on a, b, c, and on g, which none of them learned."""
    found = transfer(
        of([[4.0, 5.0, 6.0, 1.0], [2.0, 4.5, 5.5, 1.1], [2.5, 3.0, 5.0, 1.3], [2.75, 3.5, 2.0, 1.25]], "abcg"),
        ["a", "b", "c"],
    )
    assert [tuple(corpus.values()) for corpus in found["corpora"]] == [
        ("a", 1, 4.0, 2.0, 2.75, 0.75), ("b", 2, 5.0, 3.0, 3.5, 0.5), ("c", 3, 6.0, 2.0, 2.0, 0.0),
        ("g", None, 1.0, None, 1.25, 0.25),
    ]  # fmt: skip
    assert found["backward_transfer"] == (0.75 + 0.5) / 2
    assert found["forward_transfer"] == ((4.5 - 5.0) + (5.0 - 6.0)) / 2
    assert found["learned"] == (2.0 + 3.0 + 2.0) / 3 and found["last"] == (2.75 + 3.5 + 2.0) / 3


def test_one_stage_gives_nothing_to_others() -> None:
    found = transfer(of([[4.0], [2.0]], "a"), ["a"])
    assert found["backward_transfer"] == found["forward_transfer"] == 0.0
    assert found["corpora"][0]["forgetting"] == 0.0


def test_stages_are_named_by_corpora_and_make_one_model_each() -> None:
    for stages, models, corpora, said in (
        (["a", "b"], ["0", "1"], ["a", "b"], "2 stages make 3 models, and 2 are given"),
        (["a", "c"], ["0", "1", "2"], ["a", "b"], "'c' has no corpus"),
        (["a", "a"], ["0", "1", "2"], ["a", "b"], "named twice"),
    ):
        with pytest.raises(UsageError, match=said):
            check_stages(stages, models, corpora)
    check_stages(["b", "a"], ["0", "1", "2"], ["a", "b", "g"])
    check_stages([], ["0"], ["a"])


def test_stages_that_change_nothing(stories: Path, tmp_path: Path) -> None:
    models = [tmp_path / name for name in ("base", "one", "two")]
    for model in models:
        shutil.copytree(stories, model)
    texts = [f"{name}={stories.parent / name}.valid.jsonl" for name in ("general", "domain")]
    given = ["--data", texts[0], "--data", texts[1], "--tokens", "200", "--stages", "domain,general", "--quiet"]
    done = surgeon("evaluate", *map(str, models), *given, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["stages"]
    assert found["backward_transfer"] == found["forward_transfer"] == 0.0
    assert [(c["name"], c["stage"], c["forgetting"]) for c in found["corpora"]] == [
        ("general", 2, 0.0), ("domain", 1, 0.0),
    ]  # fmt: skip
    shown = surgeon("evaluate", *map(str, models), *given).out
    assert "what the stages kept" in shown and "backward transfer 0.000" in shown
