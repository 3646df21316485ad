"""A model that holds NaN or infinity is refused by name, whatever the method, wherever the element is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from merge_models import merged, tensors, trained
from safetensors.torch import save_file

from surgeon.errors import SurgeonError
from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.ops import rowwise
from surgeon.ops.execute import execute

NAME = "model.layers.1.mlp.up_proj.weight"


def spoiled(parent: Path, out: Path, value: float) -> Path:
    """One element of one matrix, in its last row."""
    held = tensors(trained(parent, out, 1))
    held[NAME][-1, 2] = value
    save_file(held, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("method", ["linear", "slerp", "nuslerp", "karcher", "mergekit:linear"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_without_a_base(
    stories: Path, tmp_path: Path, method: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowwise, "CHUNK_ELEMENTS", 640)  # the first rows are spoiled by a factor of the last one
    bad, good = spoiled(stories, tmp_path / "bad", value), trained(stories, tmp_path / "good", 2)
    out = tmp_path / "out"
    at = tensors(bad)[NAME].numel() - tensors(bad)[NAME].shape[1] + 2
    settings = MergeModelsSettings(method=method, out=out, models=[str(good), str(bad)])
    with pytest.raises(SurgeonError, match=f"{NAME}' holds .* at element {at:,}") as found:
        execute(plan_merge_models(settings), out)
    assert found.value.where == str(bad) and not out.exists()


@pytest.mark.parametrize("method", ["ties", "sce"])
def test_with_a_base_the_element_is_named(
    stories: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowwise, "CHUNK_ELEMENTS", 640)
    bad = spoiled(stories, tmp_path / "bad", float("inf"))
    at = tensors(bad)[NAME].numel() - tensors(bad)[NAME].shape[1] + 2
    with pytest.raises(SurgeonError, match=f"holds an infinite value at element {at:,}"):
        merged(tmp_path / "out", stories, {bad: 1.0, trained(stories, tmp_path / "good", 2): 1.0}, method=method)


def test_values_that_the_type_does_not_hold(stories: Path, tmp_path: Path) -> None:
    models = [str(trained(stories, tmp_path / f"{n}", n)) for n in range(2)]
    out = tmp_path / "out"
    settings = MergeModelsSettings(method="karcher", out=out, models=models, dtype="float16")
    held = tensors(Path(models[0]))
    held[NAME] = torch.full_like(held[NAME], 1e6)
    save_file(held, Path(models[0]) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SurgeonError, match="F16 cannot hold"):
        execute(plan_merge_models(settings), out)


def test_what_is_not_finite_is_not_taken_for_another_base(stories: Path, tmp_path: Path) -> None:
    bad = trained(stories, tmp_path / "bad", 1, lineage=False)
    held = {name: tensor.fill_(torch.nan) for name, tensor in tensors(bad).items()}
    save_file(held, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SurgeonError, match="not finite"):
        merged(tmp_path / "out", stories, {bad: 1.0})
