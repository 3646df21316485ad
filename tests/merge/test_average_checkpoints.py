"""surgeon average: which checkpoints of a run, in the order of their numbers, and which weights; what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from average_runs import STEPS, average, kept_run, kept_steps, mean, weights_bytes
from merge_models import tensors, trained
from safetensors.torch import save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.average import AverageSettings, averaged, plan_average
from surgeon.merge.run_checkpoints import last_of


@pytest.fixture(scope="module")
def run(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept_run(stories, tmp_path_factory.mktemp("average") / "run")


@pytest.fixture(scope="module")
def steps(run: Path) -> list[Path]:
    return kept_steps(run)


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
