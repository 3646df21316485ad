"""surgeon merge METHOD: its ends, its order, its shapes; and a method of a person's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import expanded, merged, same_tensors, tensors, trained
from safetensors.torch import save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.ops.execute import execute


def merge_models(method: str, out: Path, *models: str, **settings: Any) -> Path:
    execute(plan_merge_models(MergeModelsSettings(method=method, out=out, models=list(models), **settings)), out)
    return out


@pytest.fixture(scope="module")
def pair(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pair")
    return trained(stories, root / "a", 1), trained(stories, root / "b", 2)


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_the_ends_are_the_models(method: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    assert same_tensors(merge_models(method, tmp_path / "first", f"{a}=1", f"{b}=0"), a)
    assert same_tensors(merge_models(method, tmp_path / "second", f"{a}=0", f"{b}=3"), b)
    both = merge_models(method, tmp_path / "both", str(a), str(a.parent / "b"))
    assert not same_tensors(both, a) and not same_tensors(both, b)


def test_linear_is_the_mean_and_its_order_does_not_matter(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    one = merge_models("linear", tmp_path / "one", f"{a}=1", f"{b}=3")
    other = merge_models("linear", tmp_path / "other", f"{b}=3", f"{a}=1")
    assert same_tensors(one, other)
    left, right = tensors(a), tensors(b)
    for name, tensor in tensors(one).items():
        expected = (left[name].double() * 0.25 + right[name].double() * 0.75).float()
        assert torch.equal(tensor, expected)
    lineage = Checkpoint.open(one).lineage
    assert lineage is not None and [p.name for p in lineage.parents] == ["a", "b"]


def test_slerp_takes_curves_over_depth(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    out = merge_models("slerp", tmp_path / "out", str(a), str(b), option={"t": "1,attention:0,1,mlp:0.5"})
    found, left, right = tensors(out), tensors(a), tensors(b)
    at = "model.layers.{}.self_attn.q_proj.weight".format
    assert torch.equal(found[at(0)], left[at(0)]) and torch.equal(found[at(4)], right[at(4)])
    assert torch.equal(found["model.norm.weight"], right["model.norm.weight"])
    name = "model.layers.2.mlp.up_proj.weight"
    assert not torch.equal(found[name], left[name]) and not torch.equal(found[name], right[name])


def test_different_shapes_are_refused(pair: tuple[Path, Path], stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", [1])
    with pytest.raises(SurgeonError, match="absent"):
        merge_models("linear", tmp_path / "out", str(pair[0]), str(deep))
    assert not (tmp_path / "out").exists()


def test_buffers_are_not_merged(stories: Path, tmp_path: Path) -> None:
    name, turning = "model.layers.0.self_attn.rotary_emb.inv_freq", torch.tensor([1.0, 0.1])
    models = [trained(stories, tmp_path / n, seed) for seed, n in enumerate("ab")]
    for model in models:  # as old checkpoints have it
        save_file(tensors(model) | {name: turning}, model / "model.safetensors", metadata={"format": "pt"})
    out = merge_models("linear", tmp_path / "out", *(f"{m}=0.4" for m in models), option={"normalize": False})
    assert torch.equal(tensors(out)[name], turning)


def test_methods_with_a_base_and_without_are_not_mixed_up(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a base"):
        merge_models("ties", tmp_path / "out", *map(str, pair))
    with pytest.raises(UsageError, match="without a base"):
        merged(tmp_path / "out", pair[0], {pair[1]: 1.0}, method="slerp")
    with pytest.raises(UsageError, match="weights and t both"):
        merge_models("slerp", tmp_path / "out", f"{pair[0]}=1", f"{pair[1]}=2", option={"t": 0.5})
    with pytest.raises(UsageError, match="between two"):
        merge_models("slerp", tmp_path / "out", str(pair[0]))
    for weights in ((1, -1), (0, 0), (0.1 + 0.2, -0.3)):  # the last sum is 5.6e-17
        with pytest.raises(UsageError, match="sum to 0"):
            merge_models("linear", tmp_path / "out", *(f"{m}={w!r}" for m, w in zip(pair, weights, strict=True)))


def test_a_method_of_ones_own(
    pair: tuple[Path, Path], stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_merges.py").write_text(
        "import torch\nROWWISE = True\n"
        "def largest(base: torch.Tensor, deltas: list[torch.Tensor], *, factor: float = 1.0) -> torch.Tensor:\n"
        "    stacked = torch.stack(deltas)\n"
        "    best = stacked.abs().argmax(0, keepdim=True)\n"
        "    return base + factor * stacked.gather(0, best)[0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    a, b = pair
    out = merged(tmp_path / "out", stories, {a: 1.0, b: 1.0}, method="my_merges:largest", option={"factor": "1"})
    base, left, right = tensors(stories), tensors(a), tensors(b)
    for name, tensor in tensors(out).items():
        d, e = left[name].double() - base[name].double(), right[name].double() - base[name].double()
        picked = torch.where(d.abs() >= e.abs(), d, e)
        torch.testing.assert_close(tensor, (base[name].double() + picked).float(), rtol=0, atol=1e-7)
