"""cpt anneal: the end of a run that was not told of it, with the bytes of one that was; the run it leaves stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.train import state
from surgeon.train.anneal import AnnealSettings, anneal, describe_anneal, forked_settings
from surgeon.train.fork import find_fork
from surgeon.train.run import CptResult, run_cpt
from surgeon.train.settings import CptSettings
from surgeon.verify import verify

WEIGHTS = "model.safetensors"


def tree(*folders: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}


@pytest.fixture
def options(tiny: Callable[..., Path], corpus: Path) -> dict[str, Any]:
    """Steps of 64 tokens in bfloat16 files; dropout, replay and a regulariser, which know of steps or of the base."""
    model = tiny("llama", "bfloat16", tie_word_embeddings=True, attention_dropout=0.1)
    return {
        "model": str(model), "data": (str(corpus),), "replay": (f"old={corpus}:2",), "replay_ratio": 0.3,
        "seq_len": 16, "batch_tokens": 64, "micro_batch": 2, "lr": 1e-2, "regularize": ("l2_to_base",),
        "option": {}, "device": "cpu", "seed": 3,
    }  # fmt: skip


@pytest.fixture
def constant(options: dict[str, Any], tmp_path: Path) -> Path:
    """Six steps at a constant rate after a warm-up of two, all kept, with the last state."""
    settings = options | {"tokens": 6 * 64, "schedule": "constant", "option": options["option"] | {"warmup": 2}}
    out = tmp_path / "constant"
    run_cpt(CptSettings(**settings, out=str(out), save_every=2, keep_checkpoints=9, keep_state=True))
    return out


def forked(options: dict[str, Any], run: Path, name: str, **changes: Any) -> tuple[CptResult, Path]:
    out = run.parent / name if run.parent.name != "checkpoints" else run.parent.parent.parent / name
    base = {"run": str(run), "out": str(out), "tokens": 4 * 64, "data": options["data"], "replay": options["replay"]}
    return anneal(AnnealSettings(**(base | changes))), out


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

    begin = fork.begin(fork.joined(prepare(settings)))
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
    command = [sys.executable, "-c", PROGRAM, json.dumps(words)]
    dead = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
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


def test_what_is_found_of_a_run(options: dict[str, Any], constant: Path, tmp_path: Path) -> None:
    run_dir = constant.with_name("constant.run")
    newest = find_fork(constant)
    assert newest.step == 6 and newest.state == run_dir / "state" / "step-00000006.pt"
    assert find_fork(run_dir).state == newest.state
    assert find_fork(run_dir / "checkpoints" / "step-00000002").checkpoint == run_dir / "checkpoints" / "step-00000002"
    # what a checkpoint says of the run is what the run wrote down, but for the weights of the corpora
    state.clear(run_dir)
    told = find_fork(constant)
    assert (told.step, told.state, told.checkpoint) == (6, None, run_dir / "checkpoints" / "step-00000006")
    assert {k: v for k, v in told.record.items() if k not in ("data", "replay")} == {
        k: v for k, v in newest.record.items() if k not in ("data", "replay")
    }
    with pytest.raises(SurgeonError, match="step 5 is here") as refused:
        find_fork(constant, 5)
    assert "there are: 2, 4, 6" in refused.value.hint
    with pytest.raises(SurgeonError, match="no run of cpt"):
        find_fork(Path(options["model"]))
    with pytest.raises(SurgeonError, match="no run of cpt"):
        find_fork(tmp_path / "absent")
    shutil.move(constant, tmp_path / "moved")  # an output alone
    assert find_fork(tmp_path / "moved").checkpoint == tmp_path / "moved"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replay": []}, "without a replay corpus"),
        ({"data": ["{other}"]}, "these are others: data"),
        ({"data": ["new={corpus}"]}, "these are others: data"),
        ({"replay": ["old={corpus}:3"]}, "these are others: replay"),
        ({"at": 5}, "neither a state nor a checkpoint of step 5"),
        ({"min_ratio": 1.0}, "not above the end"),
        ({"out": "constant"}, "exists already|is an input"),
        ({"out": "constant/new"}, "lies inside an input"),
    ],
)
def test_a_fork_that_is_none_is_refused(
    options: dict[str, Any], constant: Path, corpus: Path, changes: dict[str, Any], message: str
) -> None:
    other = corpus.with_name("other.jsonl")
    other.write_text(corpus.read_text() + '{"text": "One more."}\n')
    filled = {
        k: [x.format(other=f"texts={other}", corpus=corpus) for x in v] if isinstance(v, list) else v
        for k, v in changes.items()
    }
    if "out" in filled:
        filled["out"] = str(constant.parent / filled["out"])
    before = tree(constant.parent)
    with pytest.raises((SurgeonError, UsageError), match=message):
        forked(options, constant, "new", **filled)
    assert tree(constant.parent) == before


def test_a_rate_that_still_rises_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    settings = options | {"tokens": 6 * 64, "schedule": "constant", "option": {"warmup": 5}}
    run_cpt(CptSettings(**settings, out=str(tmp_path / "run"), save_every=2, keep_checkpoints=9))
    with pytest.raises(UsageError, match="still warming up"):
        forked(options, tmp_path / "run", "new", at=2)


def test_a_state_alone_needs_the_model(options: dict[str, Any], constant: Path, tmp_path: Path) -> None:
    """A run that was broken off, without a checkpoint: settings and a state."""
    shutil.rmtree(constant)
    shutil.rmtree(constant.with_name("constant.run") / "checkpoints")
    with pytest.raises(SurgeonError, match="does not say where") as refused:
        forked(options, constant, "new")
    assert "--model" in refused.value.hint
    other = tmp_path / "other"
    shutil.copytree(options["model"], other)
    forked(options, constant, "new", model=str(other))  # the same bytes elsewhere
    shutil.rmtree(tmp_path / "new")
    torch.manual_seed(1)
    from safetensors.torch import load_file, save_file

    changed = {n: t + 1 for n, t in load_file(other / WEIGHTS).items()}
    save_file(changed, other / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(SurgeonError, match="these are others: model"):
        forked(options, constant, "new", model=str(other))


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
