"""cpt anneal: the end of a run that was not told of it, with the bytes of one that was; the run it leaves stays."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from anneal_runs import WEIGHTS, constant_run, forked, run_options, tree

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.operations import perform
from surgeon.train import state
from surgeon.train.anneal import AnnealSettings, anneal, describe_anneal, forked_settings
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
from surgeon.verify import verify


@pytest.fixture
def options(tiny: Callable[..., Path], corpus: Path) -> dict[str, Any]:
    """Of a model in bfloat16 files with dropout."""
    return run_options(tiny("llama", "bfloat16", tie_word_embeddings=True, attention_dropout=0.1), corpus)


@pytest.fixture
def constant(options: dict[str, Any], tmp_path: Path) -> Path:
    return constant_run(options, tmp_path / "constant")


@pytest.mark.parametrize(("shape", "min_ratio"), [("exponential", 0.01), ("sqrt", 0.0)])
def test_a_fork_has_the_bytes_of_a_run_that_knew_its_end(
    options: dict[str, Any], constant: Path, tmp_path: Path, shape: str, min_ratio: float
) -> None:
    whole = options | {"tokens": 10 * 64, "schedule": "wsd"}
    whole["option"] = options["option"] | {"warmup": 2, "decay": 4, "shape": shape, "min_ratio": min_ratio}
    known = run_cpt(CptSettings(**whole, out=str(tmp_path / "whole")))
    result, out = forked(options, constant, "annealed", schedule_shape=shape, min_ratio=min_ratio)
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert (result.steps, result.tokens, result.final_loss) == (10, known.tokens, known.final_loss)
    lines = next((out / "surgeon").glob("metrics-*.jsonl")).read_text().splitlines()
    rates = {x["step"]: x["lr"] for x in map(json.loads, lines)}
    assert list(rates) == [7, 8, 9, 10] and rates[10] == 1e-2 * min_ratio

    assert verify(out)["holds"]
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.training is not None
    before = Checkpoint.open(constant).lineage
    assert before is not None and lineage.settings["fork"] == {
        "plan": before.plan, "step": 6, "optimizer": "carried over", "schedule": "constant", "option": {"warmup": 2},
    }  # fmt: skip
    assert lineage.parents[0].digest == Checkpoint.open(options["model"]).digest
    assert sum(s["trained_tokens"] for s in lineage.training["data"]) == 640


def test_what_it_forgot_is_said_of_the_corpora_that_the_run_began_with(
    options: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    """Of one that only the annealing has, nobody knows what the run before it lost."""
    old, new = f"old={corpus}", f"new={corpus}"
    constant_run(options | {"eval": [old]}, tmp_path / "constant")
    settings = AnnealSettings(
        run=str(tmp_path / "constant"), out=str(tmp_path / "out"), data=list(options["data"]), tokens=256,
        replay=list(options["replay"]), eval=[old, new], eval_every=2,
    )  # fmt: skip
    first, second = perform("cpt anneal", settings)["stability"]
    assert (first["name"], first["depth"] >= 0) == ("old", True)
    assert second == {"name": "new", "unit": "bits per byte", "since": 8}


def test_a_fork_of_infinite_is_its_own_end(options: dict[str, Any], tmp_path: Path) -> None:
    phases = {"warmup": 1, "cooldown": 2, "const_ratio": 0.5, "min_ratio": 0.1}
    both = options | {"schedule": "infinite"}
    whole = CptSettings(**both | {"option": phases | {"anneal": 3}}, tokens=9 * 64, out=str(tmp_path / "whole"))
    run_cpt(whole)
    own = CptSettings(**both | {"option": phases | {"anneal": 0}}, tokens=6 * 64, out=str(tmp_path / "open"))
    run_cpt(own.model_copy(update={"keep_state": True}))
    _, out = forked(options, tmp_path / "open", "annealed", tokens=3 * 64, min_ratio=0.1)
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_the_run_stays_as_it_is_and_two_forks_are_alike(options: dict[str, Any], constant: Path) -> None:
    before = tree(constant, constant.with_name("constant.run"))
    assert len(list(constant.with_name("constant.run").glob("checkpoints/*"))) == 3
    outs = [forked(options, constant, name)[1] for name in ("one", "two")]
    outs.append(forked(options, constant / ".." / "constant.run" / "state" / "step-00000006.pt", "../../three")[1])
    # other evaluations, states and checkpoints do not decide it
    outs.append(forked(options, constant, "four", save_every=1, keep_checkpoints=2, eval=options["data"])[1])
    assert tree(constant, constant.with_name("constant.run")) == before
    assert len({(out / WEIGHTS).read_bytes() for out in outs}) == 1
    assert (outs[0] / "surgeon.json").read_bytes() == (outs[1] / "surgeon.json").read_bytes()
    for name in ("one", "two"):
        assert not constant.with_name(f"{name}.run").exists()


def test_from_a_checkpoint_the_weights_go_on_and_the_moments_begin_anew(
    options: dict[str, Any], constant: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    at = constant.with_name("constant.run") / "checkpoints" / "step-00000004"
    before = tree(constant, constant.with_name("constant.run"))
    result, out = forked(options, at, "annealed", tokens=6 * 64, keep_state=True)
    assert tree(constant, constant.with_name("constant.run")) == before
    assert result.to_json()["fork"]["optimizer"] == "begun anew" and result.steps == 10
    other, same = forked(options, constant, "same", tokens=6 * 64, at=4)
    assert (out / WEIGHTS).read_bytes() == (same / WEIGHTS).read_bytes() and other.final_loss == result.final_loss

    shutil.rmtree(tmp_path / "annealed.run")
    fork, settings = forked_settings(
        AnnealSettings(run=str(at), out="x", tokens=64, data=options["data"], replay=options["replay"])
    )
    from surgeon.train.job import prepare

    begin = fork.begin(fork.joined(prepare(settings)), [])
    held = dict(AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32).named_parameters())
    assert begin.step == 4 and begin.tokens == 4 * 64 and begin.optimizer["state"] == {}
    assert begin.parameters.keys() == held.keys()
    assert all(torch.equal(begin.parameters[name], held[name]) for name in held)
    # the data go on: step 5 is the fifth of the run
    lines = next((out / "surgeon").glob("metrics-*.jsonl")).read_text().splitlines()
    assert json.loads(lines[0])["step"] == 5


PROGRAM = """
import json, os, signal, sys, torch
torch.set_num_threads(1)
from surgeon.train import loop
from surgeon.train.anneal import AnnealSettings, anneal
step = loop.Loop._step
def fatal(self, number, windows):
    if number == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number, windows)
loop.Loop._step = fatal
anneal(AnnealSettings(**json.loads(sys.argv[1])))
"""


def test_killed_and_resumed_is_the_same_bytes(options: dict[str, Any], constant: Path, tmp_path: Path) -> None:
    _, whole = forked(options, constant, "whole", save_every=99)
    words = {
        "run": str(constant), "out": str(tmp_path / "killed"), "tokens": 256, "data": options["data"],
        "replay": options["replay"], "save_every": 99,
    }  # fmt: skip
    dead = warm.run(["-c", PROGRAM, json.dumps(words)])
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    latest = state.latest(tmp_path / "killed.run")
    assert latest is not None and latest.name == "step-00000006.pt"  # the fork itself
    with pytest.raises(SurgeonError, match="broken off"):
        forked(options, constant, "killed")
    with pytest.raises(SurgeonError, match=r"this changed: .*tokens"):
        forked(options, constant, "killed", resume=True, tokens=320)
    _, out = forked(options, constant, "killed", resume=True, save_every=1)
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert (out / "surgeon.json").read_bytes() == (whole / "surgeon.json").read_bytes()


def test_a_dry_run_says_where_it_begins(options: dict[str, Any], constant: Path) -> None:
    settings = AnnealSettings(
        run=str(constant), out=str(constant.parent / "new"), tokens=256, data=options["data"], replay=options["replay"]
    )
    found = describe_anneal(settings)
    assert (found["steps"], found["fork"]["step"]) == (10, 6)
    assert found["plan_digest"] == anneal(settings).plan_digest


def test_the_options_of_other_methods_are_kept(options: dict[str, Any], tmp_path: Path) -> None:
    from surgeon.registry import get

    name, option = next(iter(get("regularizer", "l2_to_base").options.items()))
    value = 2 * option.default
    own = {name: value, "schedule.warmup": 2, "eps": 1e-7}
    settings = options | {"tokens": 6 * 64, "schedule": "constant", "option": own}
    run_cpt(CptSettings(**settings, out=str(tmp_path / "run"), keep_state=True))
    fork, found = forked_settings(
        AnnealSettings(run=str(tmp_path / "run"), out="x", tokens=64, data=options["data"], replay=options["replay"])
    )
    assert found.option == {
        f"regularizer.{name}": value, "optimizer.eps": 1e-7, "schedule.start": 6, "schedule.start_ratio": 1.0,
        "schedule.min_ratio": 0.01, "schedule.shape": "exponential",
    }  # fmt: skip
    assert fork.note["option"] == {"warmup": 2}
    assert (found.tokens, found.schedule, found.seed) == (7 * 64, "anneal", 3)


def test_an_adapter_is_annealed_from_its_state(tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    from surgeon.adapters.attach import AttachSettings, plan_attach
    from surgeon.ops.execute import execute

    model, adapter = tiny("llama"), tmp_path / "adapter"
    execute(plan_attach(AttachSettings(model=str(model), out=str(adapter))), adapter)
    base = {"model": f"{model}+{adapter}", "data": [str(corpus)], "train": "adapter", "seq_len": 16, "lr": 1e-2}
    base |= {"batch_tokens": 64, "device": "cpu"}
    decay = {"decay": 2, "warmup": 0, "min_ratio": 0.01, "shape": "exponential"}
    run_cpt(CptSettings(**base, tokens=5 * 64, schedule="wsd", option=decay, out=str(tmp_path / "whole")))
    run_cpt(CptSettings(**base, tokens=3 * 64, schedule="constant", out=str(tmp_path / "run"), keep_state=True))
    given = {"run": str(tmp_path / "run"), "tokens": 128, "data": base["data"]}
    anneal(AnnealSettings(**given, out=str(tmp_path / "new")))
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "new")]
    assert weights[0] == weights[1]
    state.clear(tmp_path / "run.run")
    with pytest.raises(SurgeonError, match="from a state alone"):
        anneal(AnnealSettings(**given, out=str(tmp_path / "other")))


def test_settings_are_read_without_torch() -> None:
    program = "import sys, surgeon.train.anneal, surgeon.train.batch_ramp; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
