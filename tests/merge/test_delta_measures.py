"""diff and vectors agree with the same numbers computed from whole tensors."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from merge_models import expanded, tensors, trained
from safetensors.torch import save_file

from surgeon.errors import SurgeonError
from surgeon.measure.delta import diff
from surgeon.measure.vectors import vectors
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute

sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))
import adapter_models as adapters


def test_diff_of_a_model_with_itself(stories: Path) -> None:
    found = diff(stories, stories)
    assert found["identical"] and found["total"]["norm"] == 0 and found["total"]["relative"] == 0
    assert found["total"]["cosine"] == pytest.approx(1, abs=1e-12)
    assert len(found["units"]) == len(tensors(stories))


def test_diff_gives_norm_and_cosine_per_unit(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = trained(stories, tmp_path / "other", 1)
    monkeypatch.setattr("surgeon.ops.rowwise.CHUNK_ELEMENTS", 500)  # several chunks a tensor
    found = diff(stories, other)
    assert not found["identical"]
    unit = next(u for u in found["units"] if u["unit"] == "3.mlp.down_proj")
    a, b = (tensors(m)["model.layers.3.mlp.down_proj.weight"].double().flatten() for m in (stories, other))
    assert unit["norm"] == pytest.approx((b - a).norm().item(), rel=1e-12)
    assert unit["relative"] == pytest.approx(((b - a).norm() / a.norm()).item(), rel=1e-12)
    assert unit["cosine"] == pytest.approx((a @ b / a.norm() / b.norm()).item(), rel=1e-12)


def test_diff_names_what_is_not_shared(stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", [1])
    held = tensors(deep)
    name = "model.norm.weight"
    held[name] = held[name].to(torch.bfloat16)
    held["model.layers.0.input_layernorm.weight"] = torch.ones(65)
    save_file(held, deep / "model.safetensors", metadata={"format": "pt"})
    found = diff(stories, deep)
    assert not found["identical"] and len(found["only_b"]) == 9 and not found["only_a"]
    assert found["dtypes"] == [f"{name}: F32 and BF16"]
    assert found["shapes"] == ["model.layers.0.input_layernorm.weight: [64] and [65]"]


def test_vectors_are_aligned_by_lineage_and_say_their_null(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    deep = expanded(stories, tmp_path / "deep", [1])
    domain = trained(deep, tmp_path / "domain", 2)
    found = vectors(stories, [instruct, domain])
    assert found["models"] == ["instruct", "domain"]
    unit = next(u for u in found["units"] if u["unit"] == "4.mlp.up_proj")  # block 3 of the base
    base = tensors(stories)["model.layers.3.mlp.up_proj.weight"].double()
    i = (tensors(instruct)["model.layers.3.mlp.up_proj.weight"].double() - base).flatten()
    d = (tensors(domain)["model.layers.4.mlp.up_proj.weight"].double() - base).flatten()
    pair = unit["pairs"][0]
    cosine = (i @ d / i.norm() / d.norm()).item()
    # sums are taken in float32, of deltas that are exact
    assert unit["norms"] == pytest.approx([i.norm().item(), d.norm().item()], rel=1e-6)
    assert pair["cosine"] == pytest.approx(cosine, abs=1e-7)
    assert pair["null"] == pytest.approx(1 / math.sqrt(i.numel()))
    assert pair["z"] == pytest.approx(cosine * math.sqrt(i.numel()), abs=1e-4)
    product = i * d
    against = product[product < 0].abs().sum() / product.abs().sum()
    assert pair["sign_conflicts"] == pytest.approx(against.item(), abs=1e-6)
    assert pair["disparity"] == pytest.approx(max(i.norm() / d.norm(), d.norm() / i.norm()).item(), rel=1e-6)
    assert abs(found["pairs"][0]["z"]) < 4  # independent noise: nothing to be seen
    new = next(u for u in found["units"] if u["unit"] == "2.mlp.down_proj")
    assert new["norms"][0] == 0 and new["pairs"][0]["cosine"] is None
    assert new["relative"] == [0.0, None]  # zeroed at first: no ratio


def test_vectors_of_an_untrained_expansion_are_zero(stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", [0, 3])
    assert vectors(stories, [deep])["total"]["norms"] == [0.0]


def test_a_model_that_equals_the_base_has_no_delta(stories: Path, tmp_path: Path) -> None:
    again = shutil.copytree(stories, tmp_path / "again")
    found = vectors(stories, [again, trained(stories, tmp_path / "other", 1)])
    assert found["models"] == ["again", "other"] and found["total"]["norms"][0] == 0 < found["total"]["norms"][1]
    assert found["pairs"][0]["cosine"] is None


def test_adapters_on_one_model_are_measured_apart(stories: Path, tmp_path: Path) -> None:
    words = []
    for n, targets in enumerate(("attention.q,mlp.up", "attention.v,mlp.up")):
        fresh = adapters.attach(stories, tmp_path / f"fresh{n}", targets=targets)
        adapters.trained(adapters.with_peft(stories, fresh)).save_pretrained(tmp_path / f"adapter{n}")
        words.append(f"{stories}+{tmp_path / f'adapter{n}'}")
        adapters.fold(stories, tmp_path / f"adapter{n}", tmp_path / f"folded{n}")
    found, whole = vectors(stories, words), vectors(stories, [tmp_path / "folded0", tmp_path / "folded1"])
    assert found["total"]["norms"] == pytest.approx(whole["total"]["norms"], rel=1e-3)
    assert found["models"] == [f"{stories.name}+adapter0", f"{stories.name}+adapter1"]
    pair, other = found["pairs"][0], whole["pairs"][0]
    assert pair["cosine"] == pytest.approx(other["cosine"], rel=1e-2)
    up = tensors(stories)["model.layers.0.mlp.up_proj.weight"].numel() * 5
    assert pair["elements"] == other["elements"] == up  # where both have something
    settings = MergeSettings(base=str(stories), out=tmp_path / "out", add=[f"{word}=0.5" for word in words])
    told = execute(plan_merge(settings), tmp_path / "out").found["vectors"]
    assert sorted(told["models"]) == found["models"]
    assert sorted(told["total"]["norms"]) == pytest.approx(sorted(found["total"]["norms"]), rel=1e-6)


def test_vectors_refuse_another_base(stories: Path, tmp_path: Path) -> None:
    other = trained(stories, tmp_path / "other", 9, lineage=False)
    domain = trained(other, tmp_path / "domain", 2)
    with pytest.raises(SurgeonError, match="does not lead to model"):
        vectors(stories, [domain])
