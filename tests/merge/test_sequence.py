"""surgeon merge sequence: the closed form is the fold, and its ends are the first and the last model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import expanded, logits, same_tensors, tensors, trained

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import read_lineage
from surgeon.errors import UsageError
from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.merge.sequence import coefficients
from surgeon.ops.execute import execute
from surgeon.verify import verify


def sequence(out: Path, *models: Path, **settings: Any) -> Path:
    words = [str(model) for model in models]
    execute(plan_merge_models(MergeModelsSettings(method="sequence", out=out, models=words, **settings)), out)
    return out


@pytest.fixture(scope="module")
def stream(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("stream")
    return [stories, *(trained(stories, root / f"task{n}", n) for n in (1, 2, 3))]


@pytest.mark.parametrize("weight", [0.5, 0.2, 0.9])
@pytest.mark.parametrize("policy", ["ema", "zero-shot"])
def test_the_closed_form_is_the_fold(stream: list[Path], tmp_path: Path, weight: float, policy: str) -> None:
    out = tensors(sequence(tmp_path / "out", *stream, policy=policy, weight=weight))
    held = [tensors(model) for model in stream]
    for name, found in out.items():
        fold = held[0][name].double()
        for later in held[1:]:
            fold = (1 - weight) * fold + weight * later[name].double()
        assert (found.double() - fold).abs().max() <= (fold.float() - fold).abs().max() + 1e-15


def test_the_ends_are_the_first_and_the_last_model(stream: list[Path], tmp_path: Path) -> None:
    for policy in ("ema", "zero-shot", "fine-tuned"):
        first = sequence(tmp_path / f"{policy}-0", *stream, policy=policy, weight=0.0)
        assert Checkpoint.open(first).digest == Checkpoint.open(stream[0]).digest
        assert same_tensors(sequence(tmp_path / f"{policy}-1", *stream, policy=policy, weight=1.0), stream[-1])


def test_with_one_task_all_policies_are_one(stream: list[Path], tmp_path: Path) -> None:
    made = [
        sequence(tmp_path / policy, stream[0], stream[1], policy=policy, weight=0.3)
        for policy in ("ema", "zero-shot", "fine-tuned")
    ]
    assert same_tensors(made[0], made[1]) and same_tensors(made[0], made[2])


def test_fine_tuned_takes_the_last_model_alone(stream: list[Path], tmp_path: Path) -> None:
    out = tensors(sequence(tmp_path / "out", *stream, policy="fine-tuned", weight=0.25))
    first, last = tensors(stream[0]), tensors(stream[-1])
    for name, found in out.items():
        exact = first[name].double() + 0.25 * (last[name].double() - first[name].double())
        assert torch.equal(found, exact.float())


def test_the_coefficients_are_told_and_sum_to_one(stream: list[Path], tmp_path: Path) -> None:
    out = sequence(tmp_path / "out", *stream, policy="ema", weight=0.5)
    lineage = read_lineage(out)
    assert lineage is not None and lineage.merge is not None
    told = lineage.merge["sequence"]
    assert told["coefficients"] == [0.125, 0.125, 0.25, 0.5]
    assert (told["policy"], told["weight"], told["train_next_from"]) == ("ema", 0.5, "this merge")
    for count in range(1, 9):
        assert sum(coefficients("ema", 0.3, count)) + 0.7**count == pytest.approx(1, abs=1e-15)
    assert verify(out, function=True)["holds"]


def test_a_model_that_was_deepened_on_the_way(stream: list[Path], tmp_path: Path) -> None:
    deep = expanded(stream[1], tmp_path / "deep", [1])
    later = trained(deep, tmp_path / "later", 5)
    out = sequence(tmp_path / "out", stream[0], stream[1], later, policy="ema", weight=1.0)
    assert torch.equal(logits(out), logits(later))
    half = sequence(tmp_path / "half", stream[0], stream[1], deep, policy="ema", weight=0.5)
    name = "model.layers.0.mlp.up_proj.weight"
    base, one = (tensors(m)[name].double() for m in stream[:2])
    assert torch.equal(tensors(half)[name], (base + 0.25 * (one - base) + 0.5 * (one - base)).float())


def test_wrong_words(stream: list[Path], tmp_path: Path) -> None:
    for settings, said in (
        ({"weight": 0.5}, "--policy"), ({"policy": "ema"}, "--weight"), ({"policy": "ema", "weight": 1.5}, "not in"),
        ({"policy": "ema", "weight": 0.5, "option": {"t": 1}}, "no options"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            sequence(tmp_path / "x", *stream, **settings)
    with pytest.raises(UsageError, match="at least one"):
        sequence(tmp_path / "x", stream[0], policy="ema", weight=0.5)
    with pytest.raises(UsageError, match="of sequence"):
        plan_merge_models(
            MergeModelsSettings(method="linear", out=tmp_path / "x", models=[str(stream[0])], weight=0.5)
        )
