"""Whole models: surgeon's merge against mergekit's own entry point, in float64, written as float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_inputs import ulps
from merge_models import merged, tensors, trained
from safetensors.torch import load_file

from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.ops.execute import execute

WEIGHTS = (0.7, 0.4)


@pytest.fixture(scope="module")
def models(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(base, two tuned from it): changes of standard deviation 0.02 in every tensor."""
    root = tmp_path_factory.mktemp("tuned")
    return stories, trained(stories, root / "one", 1), trained(stories, root / "other", 2)


def by_mergekit(
    out: Path, method: str, base: Path | None, added: list[tuple[Path, dict[str, Any]]], parameters: dict[str, Any]
) -> dict[str, torch.Tensor]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    listed = [{"model": str(path), "parameters": own} for path, own in added]
    if base is not None and method == "slerp":
        listed.insert(0, {"model": str(base)})
    described: dict[str, Any] = {
        "merge_method": method, "models": listed, "parameters": parameters, "dtype": "float64", "out_dtype": "float32",
    }  # fmt: skip
    if base is not None:
        described["base_model"] = str(base)
    run_merge(MergeConfiguration.model_validate(described), str(out), MergeOptions(copy_tokenizer=False, quiet=True))
    found: dict[str, torch.Tensor] = {}
    for shard in out.glob("*.safetensors"):
        found |= load_file(shard)
    return found


def agree(
    found: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    apart: dict[str, torch.Tensor],
    open_: dict[str, torch.Tensor] | None = None,
) -> None:
    """All tensors to one unit in the last place of float32, but where mergekit leaves it open (masks) what it takes.

    apart: a model that the result must not be.
    """
    assert {*found} == {*expected}
    assert {t.dtype for t in (*found.values(), *expected.values())} == {torch.float32}
    for name, tensor in found.items():
        closed = torch.ones_like(tensor, dtype=torch.bool) if open_ is None else ~open_[name]
        assert ulps(tensor[closed], expected[name][closed]) <= 1, name
        assert int((~closed).sum()) <= 4, "a few elements of equal magnitude at an edge"
    differ = [name for name in found if not torch.equal(found[name], apart[name])]
    assert len(differ) > 0.9 * len(found)


def at_edges(base: Path, tuned: list[Path], density: float, gamma: float) -> dict[str, torch.Tensor]:
    """Where a delta has the magnitude, in float32, of the last one that is kept (or cut off above) and another has it
    too: mergekit's sort is not stable."""
    open_ = {}
    before = tensors(base)
    others = [tensors(path) for path in tuned]
    for name, first in before.items():
        mask = torch.zeros_like(first, dtype=torch.bool)
        for other in others:
            sizes = (other[name].double() - first.double()).abs().float()
            above, kept = int(gamma * sizes.numel()), max(1, int(density * sizes.numel()))
            ranked = sizes.flatten().sort(descending=True).values
            for last in {above, above + kept} - {0}:
                equal = sizes == ranked[last - 1]
                mask |= equal & bool(equal.sum() > 1)
        open_[name] = mask
    return open_


BASED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("task_arithmetic", {}, {}),
    ("ties", {"density": 0.3}, {"density": 0.3}),
    ("ties", {"density": 0.6, "normalize": False}, {"density": 0.6, "normalize": False}),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.05}, {"density": 0.5, "gamma": 0.05}),
    ("breadcrumbs_ties", {"density": 0.8}, {"density": 0.8}),
    ("sce", {"select_topk": 0.4}, {"select_topk": 0.4}),
    ("model_stock", {}, {}),
    ("model_stock", {"filter_wise": True}, {"filter_wise": True}),
    ("nuslerp", {}, {}),
    ("nuslerp", {"flatten": False}, {"nuslerp_flatten": False}),
]


@pytest.mark.parametrize(("method", "option", "parameters"), BASED)
def test_with_a_base(
    method: str,
    option: dict[str, Any],
    parameters: dict[str, Any],
    models: tuple[Path, Path, Path],
    tmp_path: Path,
) -> None:
    base, *tuned = models
    weighted = method not in ("sce", "model_stock")
    scale = 0.9 if method in ("task_arithmetic", "ties", "breadcrumbs") else 1.0
    add = dict(zip(tuned, WEIGHTS if weighted else (1.0, 1.0), strict=True))
    out = merged(tmp_path / "ours", base, add, method=method, option=option, scale=scale, dtype="float32")
    shared = parameters | ({"lambda": scale} if scale != 1 else {})
    added = [(path, {"weight": weight} if weighted else {}) for path, weight in add.items()]
    expected = by_mergekit(tmp_path / "theirs", method, base, added, shared)
    open_ = None
    if "density" in option:
        open_ = at_edges(base, tuned, option["density"], option.get("gamma", 0.01 if "crumbs" in method else 0.0))
    agree(tensors(out), expected, tensors(base), open_)


@pytest.mark.parametrize(
    ("method", "option", "parameters"),
    [
        ("linear", {}, {}),
        ("karcher", {}, {}),
        ("nuslerp", {}, {}),
        ("nuslerp", {"flatten": False, "row_wise": True}, {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
        ("slerp", {"t": 0.3}, {"t": 0.3}),
    ],
)
def test_without_a_base(
    method: str,
    option: dict[str, Any],
    parameters: dict[str, Any],
    models: tuple[Path, Path, Path],
    tmp_path: Path,
) -> None:
    _, one, other = models
    weighted = method in ("linear", "nuslerp")
    words = [f"{path}={weight}" if weighted else str(path) for path, weight in zip((one, other), WEIGHTS, strict=True)]
    settings = MergeModelsSettings(method=method, out=tmp_path / "ours", models=words, option=option, dtype="float32")
    execute(plan_merge_models(settings), tmp_path / "ours")
    added = [
        (path, {"weight": weight} if weighted else {}) for path, weight in zip((one, other), WEIGHTS, strict=True)
    ]
    if method == "slerp":
        expected = by_mergekit(tmp_path / "theirs", method, one, added[1:], parameters)
    else:
        expected = by_mergekit(tmp_path / "theirs", method, None, added, parameters)
    agree(tensors(tmp_path / "ours"), expected, tensors(one))
