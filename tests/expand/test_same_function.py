"""same_function tells an identity from a small change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgeon.errors import SurgeonError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.measure.function import same_function
from surgeon.ops.execute import execute

Tiny = Callable[..., Path]
TEXTS = ["Once upon a time there was a little dog.", "", "Tom and Lily went to the park."]


def test_an_identity_holds_and_a_copy_does_not(stories: Path, tmp_path: Path) -> None:
    for fill in ("auto", "copy"):
        plan = plan_expand(ExpandSettings(model=str(stories), out=tmp_path / fill, add=1, fill=fill))
        execute(plan, tmp_path / fill)
    report = same_function(stories, tmp_path / "auto", TEXTS, generate=4)
    assert report.holds and report.documents == 2 and report.positions > 10
    assert list(report.dtypes) == ["float32", "bfloat16"]
    assert all(c.max_abs_difference == 0 and c.columns == 512 for c in report.dtypes.values())
    other = same_function(stories, tmp_path / "copy", TEXTS, ["float32"], generate=4)
    assert not other.holds and other.dtypes["float32"].max_abs_difference > 0.1
    assert other.to_json()["holds"] is False


def test_the_smallest_change_of_one_weight_is_seen(tiny: Tiny, tmp_path: Path) -> None:
    model, out = tiny("llama"), tmp_path / "m"
    shutil.copytree(model, out)
    tensors = load_file(out / "model.safetensors")
    norm = tensors["model.norm.weight"]
    norm[3] = torch.nextafter(norm[3], torch.tensor(9.0))
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    found = same_function(model, out, [[5, 6, 7], [8, 9]], ["float32"], generate=0).dtypes["float32"]
    assert not found.equal and 0 < found.max_abs_difference < 1e-5
    assert same_function(model, model, [[5, 6, 7]], ["float32"]).holds


def test_an_empty_probe_and_an_incomplete_model_are_refused(tiny: Tiny, stories: Path, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="no tokens"):
        same_function(stories, stories, ["", ""])
    out = tmp_path / "m"
    shutil.copytree(tiny("llama"), out)
    tensors = load_file(out / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    with pytest.raises(SurgeonError, match=r"missing tensor model\.layers\.1\.mlp\.up_proj"):
        same_function(tiny("llama"), out, [[5, 6, 7]], ["float32"])
