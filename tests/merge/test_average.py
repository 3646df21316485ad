"""surgeon average: the last checkpoints of one run in float64, with one rounding."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from average_runs import STEPS, average, kept_run, kept_steps, mean, weights_bytes
from hypothesis import given
from hypothesis import strategies as st
from merge_models import same_tensors, tensors
from safetensors.torch import save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.rounding import round_once
from surgeon.merge.average import AverageSettings, plan_average
from surgeon.merge.average_weights import average_weights
from surgeon.ops.plan import from_json, to_json
from surgeon.replan import settings_again
from surgeon.verify import verify


@pytest.fixture(scope="module")
def run(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept_run(stories, tmp_path_factory.mktemp("average") / "run")


@pytest.fixture(scope="module")
def steps(run: Path) -> list[Path]:
    return kept_steps(run)


@pytest.mark.parametrize("last", [None, 3, 2, STEPS])
def test_uniform_is_the_mean_rounded_once(run: Path, steps: list[Path], tmp_path: Path, last: int | None) -> None:
    out = average(tmp_path / "out", run, last=last)
    found, chosen = tensors(out), steps[-(last or 6) :]
    for name, expected in mean(chosen):
        assert torch.equal(found[name].view(torch.int32), expected.float().view(torch.int32)), name
    newest = steps[-1]
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (out / name).read_bytes() == (newest / name).read_bytes()
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and (lineage.operation, lineage.kind) == ("average", "training")
    assert [p.name for p in lineage.parents] == [p.name for p in reversed(chosen)]
    assert lineage.merge is not None and lineage.merge["weights"] == "uniform"
    recorded = [(c["step"], c["weight"]) for c in lineage.merge["checkpoints"]]
    assert recorded == [(int(p.name[5:]), 1 / len(chosen)) for p in chosen]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stored_in_two_bytes(steps: list[Path], tmp_path: Path, dtype: torch.dtype) -> None:
    """Means of six bfloat16 values lie halfway between two of them all the time."""
    for number, step in enumerate(steps):
        shutil.copytree(step, tmp_path / "run" / f"step-{number}")
        path = tmp_path / "run" / f"step-{number}" / "model.safetensors"
        save_file({n: t.to(dtype) for n, t in tensors(step).items()}, path, metadata={"format": "pt"})
    out = average(tmp_path / "out", tmp_path / "run")
    halfway, found = 0, tensors(out)
    for name, expected in mean([tmp_path / "run" / f"step-{n}" for n in range(1, STEPS)]):
        assert torch.equal(found[name], round_once(expected, dtype)), name
        below = torch.nextafter(found[name], torch.full_like(found[name], -torch.inf)).double()
        halfway += int(((found[name].double() + below) / 2 == expected).sum())
    assert halfway > 100
    wide = average(tmp_path / "wide", tmp_path / "run", dtype="float32")
    assert {t.dtype for t in tensors(wide).values()} == {torch.float32}
    assert json.loads((wide / "config.json").read_text()).get("dtype") == "float32"


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7])
def test_the_average_of_copies_is_the_checkpoint(steps: list[Path], tmp_path: Path, count: int) -> None:
    for number in range(count):
        shutil.copytree(steps[2], tmp_path / "run" / f"checkpoint-{number}00")
    for number, rule in enumerate(("uniform", "ema:0.2")):
        out = average(tmp_path / f"out{number}", tmp_path / "run", last=count, weights=rule)
        assert weights_bytes(out) == weights_bytes(steps[2])
        lineage = Checkpoint.open(out).lineage
        assert lineage is not None and verify(out, function=True)["holds"]
        assert [p.name for p in lineage.parents] == [f"checkpoint-{n}00" for n in reversed(range(count))]


def test_the_ends_are_checkpoints(run: Path, steps: list[Path], tmp_path: Path) -> None:
    newest, oldest = weights_bytes(steps[-1]), weights_bytes(steps[-4])
    for number, (rule, expected) in enumerate(
        {"0,0,0,1": newest, "ema:1": newest, "1,0,0,0": oldest, "ema:0": oldest}.items()
    ):
        assert weights_bytes(average(tmp_path / f"out{number}", run, last=4, weights=rule)) == expected


@given(st.integers(0, 1000).map(lambda n: n / 1000), st.integers(1, 10))
def test_the_closed_form_is_the_fold(share: float, count: int) -> None:
    weights, rule = average_weights(f"ema:{share!r}", count)
    fold = [1.0] + [0.0] * (count - 1)
    for k in range(1, count):
        fold = [(1 - share) * w for w in fold]
        fold[k] += share
    assert len(weights) == count and max(abs(a - b) for a, b in zip(weights, fold, strict=True)) <= 1e-15
    assert abs(math.fsum(weights) - 1) <= 1e-15 and min(weights) >= 0 and rule == f"ema:{share!r}"


def test_the_published_moving_average() -> None:
    """Six checkpoints and 0.2: the oldest one weighs most."""
    weights, _ = average_weights("ema:0.2", 6)
    assert [round(w, 5) for w in weights] == [0.32768, 0.08192, 0.1024, 0.128, 0.16, 0.2]


def test_ema_is_the_moving_average(run: Path, steps: list[Path], tmp_path: Path) -> None:
    found = tensors(average(tmp_path / "out", run, weights="ema:0.3", last=5))
    held = [tensors(s) for s in steps[-5:]]
    for name, tensor in found.items():
        fold = held[0][name].double()
        for later in held[1:]:
            fold = 0.7 * fold + 0.3 * later[name].double()
        assert ((tensor.double() - fold).abs() <= fold.abs() * 2.0**-24 + 1e-15).all()  # half a last bit of float32


@pytest.mark.parametrize(("rule", "share"), [("uniform", None), ("ema:0.2", 0.2)])
def test_parity_with_torch(run: Path, steps: list[Path], tmp_path: Path, rule: str, share: float | None) -> None:
    """torch.optim.swa_utils, which averages in the models' own float32."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    from transformers import AutoModelForCausalLM

    average_fn = None if share is None else get_ema_multi_avg_fn(1 - share)
    peer = None
    for step in steps[-6:]:
        model = AutoModelForCausalLM.from_pretrained(step)
        peer = peer or AveragedModel(model, multi_avg_fn=average_fn)
        peer.update_parameters(model)
    assert peer is not None
    theirs = dict(peer.module.named_parameters())
    for name, ours in tensors(average(tmp_path / "out", run, weights=rule)).items():
        torch.testing.assert_close(ours, theirs[name].detach(), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("rule", ["uniform", "ema:0.2", "0.1,0.2,0.7"])
def test_it_is_planned_again_from_its_lineage(run: Path, tmp_path: Path, rule: str) -> None:
    shutil.copytree(run.with_name("run.run"), tmp_path / "run.run")
    out = average(tmp_path / "out", tmp_path / "run.run", last=3, weights=rule, shard_bytes=300_000)
    folder = tmp_path / "run.run" / "checkpoints"
    shutil.copytree(folder / "step-00000001", folder / "step-8")  # what a run writes later does not count
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None
    paths = {p.role: Path(os.path.normpath(out / p.path)) for p in lineage.parents}
    plan = plan_average(AverageSettings(**settings_again(lineage, paths, tmp_path / "again")))
    assert plan.digest == lineage.plan
    assert from_json(json.loads(json.dumps(to_json(plan)))).digest == plan.digest
    checked = verify(out, function=True)
    assert checked["holds"] and any("comes out the same again" in c["check"] for c in checked["checks"])
    shard = sorted(out.glob("*.safetensors"))[0]
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    assert not verify(out, function=True)["holds"]


def test_it_is_the_model_that_a_task_vector_is_taken_of(run: Path, stories: Path, tmp_path: Path) -> None:
    """Its lineage leads to the model that was trained, and its tensors lie between those of the checkpoints."""
    out = average(tmp_path / "out", run, last=3)
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None
    digests = [step.parents[0].digest for step in lineage.chain() if step.parents]
    assert digests[-1] == Checkpoint.open(stories).digest
    assert not same_tensors(out, run)
