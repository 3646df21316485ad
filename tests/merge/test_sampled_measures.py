"""A part of a tensor that is looked at counts for all of it, and the null of a cosine is one of its parts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from merge_models import tensors, trained
from safetensors.torch import save_file

from surgeon.measure.vectors import vectors
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops import sum_piece
from surgeon.ops.delta_sums import DeltaSums
from surgeon.ops.execute import execute

EMBEDDING = "model.embed_tokens.weight"


def uneven(parent: Path, out: Path, seed: int) -> Path:
    """A model whose embedding, the largest tensor, moved more than all others."""
    trained(parent, out, seed, lineage=False, size=0.002)
    held = tensors(out)
    noise = torch.randn(held[EMBEDDING].shape, generator=torch.Generator().manual_seed(seed + 100))
    save_file(held | {EMBEDDING: held[EMBEDDING] + noise * 0.05}, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.fixture
def pair(stories: Path, tmp_path: Path) -> tuple[Path, Path]:
    return uneven(stories, tmp_path / "one", 1), uneven(stories, tmp_path / "two", 2)


def test_a_part_stands_for_the_whole(
    stories: Path, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of the embedding every eighth block is looked at, of the other tensors all
    monkeypatch.setattr(sum_piece, "BLOCK", 256)
    monkeypatch.setattr(sum_piece, "SMALL", 100)
    words = [f"{model}=0.5" for model in pair]
    plan = plan_merge(MergeSettings(base=str(stories), out=tmp_path / "out", add=words, dtype="bfloat16"))
    found = execute(plan, tmp_path / "out").to_json()
    skipped = found["rounding"]["skipped"]
    assert skipped > 20_000
    exact = vectors(stories, pair)["total"]
    near = dict(zip(found["vectors"]["models"], found["vectors"]["total"]["relative"], strict=True))
    assert [near["one"], near["two"]] == pytest.approx(exact["relative"], rel=0.03)
    assert found["vectors"]["total"]["pairs"][0]["sign_conflicts"] == pytest.approx(
        exact["pairs"][0]["sign_conflicts"], abs=0.02
    )
    base, meant = tensors(stories), [tensors(model) for model in pair]
    stored = tensors(tmp_path / "out")
    dd = ee = 0.0
    for name, held in base.items():
        delta = sum(0.5 * (m[name].double() - held.double()) for m in meant)
        dd += float((delta**2).sum())
        ee += float(((stored[name].double() - held.double() - delta) ** 2).sum())
    assert found["rounding"]["relative_error"] == pytest.approx(math.sqrt(ee / dd), rel=0.05)
    assert found["rounding"]["changed"] == pytest.approx(found["rounding"]["elements"] + skipped, rel=0.01)


def test_what_was_not_looked_at_is_like_the_rest() -> None:
    sums = DeltaSums(1, 100, [4.0, 1.0, 2.0], [], 3.0, 2.0, 1.0, 80, 10, 300)
    assert sums.whole() == DeltaSums(1, 100, [16.0, 4.0, 8.0], [], 12.0, 8.0, 4.0, 320, 40, 300)
    assert DeltaSums(1, 100, [4.0, 1.0, 2.0]).whole() == DeltaSums(1, 100, [4.0, 1.0, 2.0])


def test_the_null_is_that_of_the_tensors_that_moved(stories: Path, pair: tuple[Path, Path]) -> None:
    found = vectors(stories, pair)["total"]["pairs"][0]
    base, one, two = tensors(stories), *map(tensors, pair)
    spread = xx = yy = xy = 0.0
    for name, held in base.items():
        x, y = one[name].double() - held.double(), two[name].double() - held.double()
        a, b = float((x * x).sum()), float((y * y).sum())
        spread, xx, yy, xy = spread + a * b / x.numel(), xx + a, yy + b, xy + float((x * y).sum())
    assert found["null"] == pytest.approx(math.sqrt(spread / (xx * yy)), rel=1e-5)
    assert found["z"] == pytest.approx(xy / math.sqrt(spread), rel=1e-3, abs=1e-3)
    # nearly all of both deltas is in the embedding: its elements are those that count
    assert found["null"] == pytest.approx(1 / math.sqrt(base[EMBEDDING].numel()), rel=0.02)
    assert found["null"] > 2.5 / math.sqrt(found["elements"])
