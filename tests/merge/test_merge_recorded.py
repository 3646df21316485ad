"""The record of a merge is enough to plan it again, and does not depend on where its inputs lie."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import expanded, merged, tensors, trained

from surgeon.checkpoint.index import Checkpoint
from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute
from surgeon.ops.plan import from_json, to_json
from surgeon.replan import settings_again


def paths(out: Path) -> dict[str, Path]:
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None
    return {p.role: Path(os.path.normpath(out / p.path)) for p in lineage.parents}


@pytest.mark.parametrize("weights", [(0.7, 0.4), (1.0, 0.0), (0.0, 0.0)])
def test_a_merge_is_planned_again_from_its_lineage(
    stories: Path, tmp_path: Path, weights: tuple[float, float]
) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1)
    domain = trained(expanded(stories, tmp_path / "deep", [1]), tmp_path / "domain", 2)
    out = merged(tmp_path / "out", stories, dict(zip((instruct, domain), weights, strict=True)), new_blocks="source")
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None
    again = plan_merge(MergeSettings(**settings_again(lineage, paths(out), tmp_path / "again")))
    assert again.digest == lineage.plan


def test_a_merge_of_models_is_planned_again(stories: Path, tmp_path: Path) -> None:
    one, other = trained(stories, tmp_path / "one", 1), trained(stories, tmp_path / "other", 2)
    for method in ("slerp", "linear"):
        out = tmp_path / method
        settings: dict[str, Any] = {"method": method, "models": [f"{other}=0.2", f"{one}=0.6"]}
        execute(plan_merge_models(MergeModelsSettings(out=out, **settings)), out)
        lineage = Checkpoint.open(out).lineage
        assert lineage is not None
        again = MergeModelsSettings(**settings_again(lineage, paths(out), tmp_path / "again"))
        assert plan_merge_models(again).digest == lineage.plan


def test_the_plan_does_not_depend_on_places_and_survives_json(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1)
    moved = tmp_path / "elsewhere" / "other-name"
    shutil.copytree(instruct, moved)
    base = tmp_path / "base-copy"
    shutil.copytree(stories, base)
    plans = [
        plan_merge(MergeSettings(base=str(b), out=tmp_path / "out", add=[f"{m}=0.5"]))
        for b, m in ((stories, instruct), (base, moved))
    ]
    assert plans[0].digest == plans[1].digest
    assert from_json(json.loads(json.dumps(to_json(plans[0])))).digest == plans[0].digest


def test_bfloat16_is_rounded_once_from_float64(stories: Path, tmp_path: Path) -> None:
    base = merged(tmp_path / "base", stories, {trained(stories, tmp_path / "x", 5): 0.0}, dtype="bfloat16")
    (base / "surgeon.json").unlink()
    first, second = (trained(base, tmp_path / f"m{n}", n, size=0.003) for n in (1, 2))
    out = tensors(merged(tmp_path / "out", base, {first: 0.7, second: 0.3}))
    b, f, s = tensors(base), tensors(first), tensors(second)
    for name, tensor in out.items():
        exact = b[name].double() + 0.7 * (f[name].double() - b[name].double())
        exact += 0.3 * (s[name].double() - b[name].double())
        below = torch.nextafter(tensor, torch.full_like(tensor, -torch.inf)).double()
        above = torch.nextafter(tensor, torch.full_like(tensor, torch.inf)).double()
        error = (tensor.double() - exact).abs()
        slack = 1e-12
        assert (error <= (below - exact).abs() + slack).all() and (error <= (above - exact).abs() + slack).all()


def test_sharded_models_meet_single_files(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1)
    chat = trained(stories, tmp_path / "chat", 2)
    whole = merged(tmp_path / "whole", stories, {instruct: 0.5, chat: 0.5})
    sharded = merged(tmp_path / "sharded", stories, {instruct: 0.5, chat: 0.5}, shard_bytes=200_000)
    assert len(Checkpoint.open(sharded).shards) > 3
    again = merged(tmp_path / "again", stories, {sharded: 1.0})
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
