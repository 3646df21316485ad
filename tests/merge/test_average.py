"""surgeon average: the last checkpoints of one run, in the order of their numbers, in float64 with one rounding."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge_models import same_tensors, tensors, trained
from safetensors.torch import save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.rounding import round_once
from surgeon.cli.app import main
from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.average import AverageSettings, averaged, plan_average
from surgeon.merge.average_weights import average_weights
from surgeon.merge.run_checkpoints import last_of
from surgeon.ops.execute import execute
from surgeon.ops.plan import from_json, to_json
from surgeon.replan import settings_again
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
from surgeon.verify import verify

STEPS = 7


@pytest.fixture(scope="module")
def run(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a real training at a constant rate that kept the checkpoints after each of its seven steps."""
    out = tmp_path_factory.mktemp("average") / "run"
    corpus = str(stories.parent / "domain.valid.jsonl")
    run_cpt(
        CptSettings(
            model=str(stories), out=str(out), data=[corpus], tokens=STEPS * 256, seq_len=64, batch_tokens=256, lr=3e-3,
            schedule="constant", save_every=1, keep_checkpoints=STEPS, device="cpu",
        )
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def steps(run: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    return [run.with_name("run.run") / "checkpoints" / f"step-{n:08d}" for n in range(1, STEPS + 1)]


def average(out: Path, run: Path, **settings: Any) -> Path:
    execute(plan_average(AverageSettings(run=str(run), out=out, **settings)), out)
    return out


def weights_bytes(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def mean(folders: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain mean in float64."""
    held = [tensors(f) for f in folders]
    for name in held[0]:
        yield name, torch.stack([h[name].double() for h in held]).mean(0)


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


def test_the_checkpoints_of_a_trainer(stories: Path, tmp_path: Path) -> None:
    """A real run of the transformers library: checkpoint-9, checkpoint-10, ... beside optimizer states and logs."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(3, 500, (11, 24)).tolist()]
    arguments = TrainingArguments(
        str(tmp_path / "run"), per_device_train_batch_size=1, save_steps=1, save_total_limit=3, num_train_epochs=1,
        learning_rate=1e-3, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(stories, pad_token="</s>")
    model = AutoModelForCausalLM.from_pretrained(stories)
    Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
    assert [c.step for c in last_of(tmp_path / "run", 3)] == [9, 10, 11]
    out = average(tmp_path / "out", tmp_path / "run", last=3)
    for name, expected in mean([tmp_path / "run" / f"checkpoint-{n}" for n in (9, 10, 11)]):
        assert torch.equal(tensors(out)[name], expected.float())
    AutoModelForCausalLM.from_pretrained(out)
    assert (out / "tokenizer.json").is_file() and not list(out.glob("*.pt"))


def test_the_order_is_that_of_the_numbers(steps: list[Path], tmp_path: Path) -> None:
    names = {"step-9": 0, "step-10": 1, "checkpoint-100": 2, "global_step1000": 3}
    for name, number in reversed(names.items()):  # the oldest one is written last, and last by name too
        shutil.copytree(steps[number], tmp_path / "run" / name)
    for other in ("notes", "llama-3-8b", ".step-99999.partial"):
        (tmp_path / "run" / other).mkdir()
    (tmp_path / "run" / "log-2000").write_text("a file")
    os.utime(tmp_path / "run" / "step-9")
    plan = plan_average(AverageSettings(run=str(tmp_path / "run"), out=tmp_path / "out", last=4, weights="ema:0.5"))
    assert [Path(c["path"]).name for c in averaged(plan)["checkpoints"]] == list(names)
    assert [c["weight"] for c in averaged(plan)["checkpoints"]] == [0.125, 0.125, 0.25, 0.5]
    out = average(tmp_path / "newest", tmp_path / "run", last=2, weights="0,1")
    assert weights_bytes(out) == weights_bytes(steps[3])


def test_a_run_is_named_in_three_ways(run: Path, steps: list[Path]) -> None:
    for place in (run, run.with_name("run.run"), steps[0].parent):
        assert [c.path.name for c in last_of(place, STEPS)] == [s.name for s in steps]


def test_weights_of_a_file(run: Path, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[0.1, 0.2,\n 0.7]")
    (tmp_path / "lines.txt").write_text("0.1\n0.2\n0.7\n")
    made = [
        average(tmp_path / f"out{n}", run, last=3, weights=str(rule))
        for n, rule in enumerate((tmp_path / "list.json", tmp_path / "lines.txt", "0.1,0.2,0.7"))
    ]
    assert weights_bytes(made[0]) == weights_bytes(made[1]) == weights_bytes(made[2])
    lineage = Checkpoint.open(made[0]).lineage
    assert lineage is not None and lineage.settings["weights"] == "0.1,0.2,0.7"


def test_named_checkpoints(run: Path, steps: list[Path], tmp_path: Path) -> None:
    out = average(tmp_path / "out", run, checkpoint=[steps[4].name, steps[1].name], weights="0.25,0.75")
    for name, tensor in tensors(out).items():
        older, newer = tensors(steps[1])[name].double(), tensors(steps[4])[name].double()
        assert torch.equal(tensor, (older * 0.25 + newer * 0.75).float())


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


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("ema:1.5", "not in"), ("ema:-0.1", "not in"), ("ema:", "neither a number"), ("ema:nan", "neither a number"),
        ("0.5,0.5", "2 weights are given for 3"), ("0.5,0.5,0.1", "sum to 1.1"), ("0.5,-0.5,1", "not in"),
        ("0.3333,0.3333,0.3333", "sum to 0.9999"), ("unifrom", "neither a number nor a file"),
    ],
)  # fmt: skip
def test_weights_out_of_range_are_refused(run: Path, tmp_path: Path, rule: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        average(tmp_path / "out", run, last=3, weights=rule)
    (tmp_path / "file").write_text('["a", true, 1]')
    with pytest.raises(UsageError, match="neither a number"):
        average(tmp_path / "out", run, last=3, weights=str(tmp_path / "file"))
    assert not (tmp_path / "out").exists()


def test_refusals(run: Path, steps: list[Path], stories: Path, tmp_path: Path) -> None:
    def refused(message: str, folder: Path, **settings: Any) -> SurgeonError:
        with pytest.raises(SurgeonError, match=message) as error:
            average(tmp_path / "out", folder, **settings)
        assert not (tmp_path / "out").exists()
        return error.value

    assert "--last 7" in refused("of the last 8 checkpoints only 7 are there", run, last=8).hint
    refused("there is no such folder", tmp_path / "absent")
    refused("no subfolder named with a number", stories)
    refused("one of them out|asked for", run, last=2, checkpoint=["step-00000001"])
    refused("is not there", run, checkpoint=["step-00000099"])

    other = tmp_path / "other"
    shutil.copytree(steps[0], other / "step-1")
    shutil.copytree(steps[1], other / "step-01")
    refused("have one number", other, last=2)
    (other / "step-01").rename(other / "adapter-2")
    for name in ("config.json", "model.safetensors"):
        (other / "adapter-2" / name).unlink()
    (other / "adapter-2" / "adapter_config.json").write_text("{}")
    refused("not the mean of BA", other, last=2)

    shutil.rmtree(other / "adapter-2")
    trained(steps[3], other / "step-2", 1)
    refused("descend from different models", other, last=2)
    shutil.rmtree(other / "step-2")
    shutil.copytree(steps[1], other / "step-2")
    lineage = json.loads((other / "step-2" / "surgeon.json").read_text())
    (other / "step-2" / "surgeon.json").write_text(json.dumps(lineage | {"plan": "sha256:0"}))
    refused("are of different runs", other, last=2)
    (other / "step-2" / "surgeon.json").unlink()
    average(tmp_path / "fine", other, last=2)  # nothing says that it is of another run
    held = tensors(steps[1])
    held["model.norm.weight"] = held["model.norm.weight"][:-1].clone()
    save_file(held, other / "step-2" / "model.safetensors", metadata={"format": "pt"})
    refused("model.norm.weight", other, last=2)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    found = capsys.readouterr()
    assert stop.value.code == 0, found.err
    return found.out


def test_the_command_prints_the_weights(
    run: Path, steps: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("average", str(run), str(tmp_path / "out"), "--last", "3", "--weights", "ema:0.2")
    weights = average_weights("ema:0.2", 3)[0]
    expected = [
        {"path": str(p), "step": int(p.name[5:]), "weight": w} for p, w in zip(steps[-3:], weights, strict=True)
    ]
    dry = json.loads(command(capsys, *words, "--dry-run", "--json"))
    assert dry["checkpoints"] == expected and dry["operation"] == "average" and not (tmp_path / "out").exists()
    table = command(capsys, *words, "--dry-run")
    rows = [line.replace("│", " ").split() for line in table.splitlines() if "step-" in line]
    assert rows == [[p.name, str(int(p.name[5:])), f"{w:.6g}"] for p, w in zip(steps[-3:], weights, strict=True)]
    command(capsys, *words, "--plan", str(tmp_path / "plan.json"))
    made = json.loads(command(capsys, *words, "--json"))
    assert made["checkpoints"] == expected and made["plan_digest"] == dry["plan_digest"]
    command(capsys, "apply", str(tmp_path / "plan.json"), str(tmp_path / "applied"))
    assert weights_bytes(tmp_path / "applied") == weights_bytes(tmp_path / "out")
    command(capsys, "verify", str(tmp_path / "out"), "--function")


def test_a_stage_of_a_recipe(stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(f"""
title: "A run and the average of its end"
inputs: {{base: {stories}}}
stages:
  taught:
    run: cpt
    uses: {{model: base}}
    with: {{data: ["{stories.parent}/domain.valid.jsonl"], tokens: 1024, seq-len: 64, batch-tokens: 256, save-every: 1,
            schedule: constant, lr: 1e-3, keep-checkpoints: 3, device: cpu}}
  averaged:
    run: average
    uses: {{run: taught}}
    with: {{last: 3}}
""")
    for _ in range(2):  # the second time everything is done
        command(capsys, "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "made"))
    (result,) = (tmp_path / "made" / "results").glob("averaged-*.json")
    record = json.loads(result.read_text())
    assert [c["step"] for c in record["result"]["checkpoints"]] == [2, 3, 4]
    assert Checkpoint.open(tmp_path / "made" / record["out"]).lineage is not None


def test_it_is_the_model_that_a_task_vector_is_taken_of(run: Path, stories: Path, tmp_path: Path) -> None:
    """Its lineage leads to the model that was trained, and its tensors lie between those of the checkpoints."""
    out = average(tmp_path / "out", run, last=3)
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None
    digests = [step.parents[0].digest for step in lineage.chain() if step.parents]
    assert digests[-1] == Checkpoint.open(stories).digest
    assert not same_tensors(out, run)
