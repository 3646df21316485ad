"""A run that was killed ends with the same bytes as one that was not; what would change them is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surgeon.errors import SurgeonError
from surgeon.saved_plan import apply_plan, save_plan
from surgeon.train import state
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

# an objective of a user's own that kills its process, at a call that the environment names
OBJECTIVE = '''
import os, signal
from surgeon.train.objectives.next_token import next_token

CALLS = [0]

def fatal(nats):
    """next_token, until it is time to die."""
    CALLS[0] += 1
    if CALLS[0] == int(os.environ.get("DIE_AT", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return next_token(nats)
'''
PROGRAM = """
import json, sys, torch
torch.set_num_threads(1)
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
run_cpt(CptSettings(**json.loads(sys.argv[1])))
"""


@pytest.fixture
def options(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    (tmp_path / "fatal_objective.py").write_text(OBJECTIVE)
    monkeypatch.syspath_prepend(tmp_path)
    # dropout: the random numbers of a step must not depend on where the run began
    model = tiny("llama", "bfloat16", tie_word_embeddings=True, attention_dropout=0.1)
    return {
        "model": str(model), "data": (str(corpus),), "replay": (f"old={corpus}",), "replay_ratio": 0.3,
        "tokens": 640, "seq_len": 16, "batch_tokens": 64, "micro_batch": 2, "lr": 1e-2, "save_every": 3,
        "objective": "fatal_objective:fatal", "regularize": ("l2_to_base",), "eval": (f"own={corpus}",),
        "eval_every": 4,
        "device": "cpu",
    }  # fmt: skip


def files(out: Path) -> dict[str, bytes | list[Any]]:
    found: dict[str, bytes | list[Any]] = {
        p.name: p.read_bytes() for p in out.rglob("*") if p.is_file() and not p.name.startswith("metrics")
    }
    lines = [json.loads(x) for x in next((out / "surgeon").glob("metrics-*.jsonl")).read_text().splitlines()]
    found["metrics"] = [
        {k: v for k, v in line.items() if k not in ("tokens_per_second", "memory_bytes")} for line in lines
    ]
    return found


def test_killed_and_resumed_is_the_same_bytes(options: dict[str, Any], tmp_path: Path) -> None:
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    out = tmp_path / "killed"
    # two micro-batches a step: call 15 is in step 8, and the newest state is that of step 6
    environment = os.environ | {"DIE_AT": "15", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    words = [sys.executable, "-c", PROGRAM, json.dumps(options | {"out": str(out)})]
    dead = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert not out.exists()
    run_dir = tmp_path / "killed.run"
    assert [p.name for p in (run_dir / "state").iterdir()] == ["step-00000006.pt"]
    assert json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 7

    with pytest.raises(SurgeonError, match="broken off") as refused:
        run_cpt(CptSettings(**options, out=str(out)))
    assert "--resume" in refused.value.hint and "--force" in refused.value.hint
    with pytest.raises(SurgeonError, match=r"lr \(0.01 -> 0.02\)"):
        run_cpt(CptSettings(**options | {"lr": 0.02}, out=str(out), resume=True))

    run_cpt(CptSettings(**options, out=str(out), resume=True))
    assert files(out) == files(tmp_path / "whole")
    assert not run_dir.exists()


def test_a_run_that_was_done_but_not_written_is_only_written(options: dict[str, Any], tmp_path: Path) -> None:
    first = run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_state=True))
    (tmp_path / "one.run").rename(tmp_path / "two.run")
    second = run_cpt(CptSettings(**options, out=str(tmp_path / "two"), resume=True))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert second.tokens == first.tokens


def test_resume_with_nothing_there_begins(options: dict[str, Any], tmp_path: Path) -> None:
    assert run_cpt(CptSettings(**options, out=str(tmp_path / "one"), resume=True)).steps == 10


def test_other_data_are_refused(options: dict[str, Any], tmp_path: Path, corpus: Path) -> None:
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_state=True))
    (tmp_path / "one.run").rename(tmp_path / "two.run")
    corpus.write_text(corpus.read_text() + '{"text": "One more."}\n')
    with pytest.raises(SurgeonError, match="this changed: data"):
        run_cpt(CptSettings(**options, out=str(tmp_path / "two"), resume=True))


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.pt").write_bytes(b"no")
    with pytest.raises(SurgeonError, match="cannot be read"):
        state.load(tmp_path / "step-00000001.pt")


def test_force_replaces_a_finished_output_and_a_broken_run(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "one"
    run_cpt(CptSettings(**options, out=str(out), keep_state=True))
    with pytest.raises(SurgeonError, match="exists already"):
        run_cpt(CptSettings(**options, out=str(out)))
    before = (out / "model.safetensors").read_bytes()
    run_cpt(CptSettings(**options | {"seed": 5}, out=str(out)), force=True)
    assert (out / "model.safetensors").read_bytes() != before


def test_the_same_run_twice_is_the_same_bytes(options: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_cpt(CptSettings(**options, out=str(tmp_path / name)))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_one_process_a_run(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "one"
    settings = CptSettings(**options, out=str(out), resume=True)
    with state.owned(settings.run_dir):
        for force in (False, True):
            with pytest.raises(SurgeonError, match="another process is training"):
                run_cpt(settings, force=force)
    assert not settings.run_dir.exists()
    run_cpt(settings)


def test_a_folder_that_is_no_run_is_left_alone(options: dict[str, Any], tmp_path: Path) -> None:
    own = tmp_path / "one.run" / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    for force in (False, True):
        with pytest.raises(SurgeonError, match="something else"):
            run_cpt(CptSettings(**options, out=str(tmp_path / "one")), force=force)
    assert own.read_text() == "mine" and list(own.parent.iterdir()) == [own]


def test_a_refused_run_leaves_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SurgeonError):
        run_cpt(CptSettings(**options | {"data": ("absent.jsonl",)}, out=str(tmp_path / "one")))
    assert not list(tmp_path.glob("one*"))


def test_a_full_disk_keeps_the_state_before(options: dict[str, Any], tmp_path: Path) -> None:
    """The kernel's own refusal to write on, by a limit on the size of files."""
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_state=True))
    path = state.latest(tmp_path / "one.run")
    assert path is not None
    held, size = state.load(path), path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(SurgeonError, match="cannot be written"):
            state.save(tmp_path / "one.run", dataclasses.replace(held, step=held.step + 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_saved_plan_holds_its_inputs_to_their_bytes(options: dict[str, Any], tmp_path: Path, corpus: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "one"
    digest = save_plan(plan, "cpt", CptSettings(**options, out=str(out)))
    before = corpus.read_text()
    corpus.write_text(before + '{"text": "One more."}\n')
    with pytest.raises(SurgeonError, match="data, replay"):
        apply_plan(plan, None)
    assert not list(tmp_path.glob("one*"))
    corpus.write_text(before)
    assert apply_plan(plan, None)["plan_digest"] == digest


def test_an_interrupted_command_says_so_and_goes_on(options: dict[str, Any], tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "surgeon",
        "cpt",
        options["model"],
        str(tmp_path / "one"),
        "--data",
        options["data"][0],
    ]
    words += ["--tokens", "40k", "--seq-len", "16", "--batch-tokens", "64", "--save-every", "1"]
    # shells start background processes with the interrupt ignored
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not list((tmp_path / "one.run" / "state").glob("*.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "") and "Traceback" not in err
    assert not (tmp_path / "one").exists()
    assert len(list((tmp_path / "one.run" / "state").glob("*.pt"))) == 1


def test_a_stop_by_the_scheduler_saves_first(options: dict[str, Any], tmp_path: Path) -> None:
    """SIGTERM: the state of that very step, exit code 130, and the same bytes in the end."""
    out = tmp_path / "one"
    words = ["--tokens", "640", "--seq-len", "16", "--batch-tokens", "64", "--save-every", "1000", "--lr", "0.01"]
    words = ["cpt", options["model"], str(out), "--data", options["data"][0], *words]
    run = [sys.executable, "-m", "surgeon", *words]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "one.run" / "metrics.jsonl"
    while not metrics.is_file() or not metrics.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    printed, err = process.communicate()
    assert (process.returncode, printed) == (130, ""), err
    saved = state.latest(tmp_path / "one.run")
    assert saved is not None and not out.exists()
    assert state.load(saved).step == json.loads(metrics.read_text().splitlines()[-1])["step"]
    subprocess.run([*run, "--resume"], check=True, capture_output=True)
    subprocess.run([*run[:4], options["model"], str(tmp_path / "whole"), *run[6:]], check=True, capture_output=True)
    assert files(out) == files(tmp_path / "whole")


def test_as_many_states_as_asked_for_are_kept(options: dict[str, Any], tmp_path: Path) -> None:
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_states=2, keep_state=True))
    names = sorted(p.name for p in (tmp_path / "one.run" / "state").iterdir())
    assert names == ["step-00000009.pt", "step-00000010.pt"]
    (tmp_path / "one.run" / "state" / names[1]).unlink()  # as if the newest one were lost
    (tmp_path / "one.run").rename(tmp_path / "two.run")
    run_cpt(CptSettings(**options, out=str(tmp_path / "two"), resume=True))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_run_may_go_on_with_another_micro_batch(options: dict[str, Any], tmp_path: Path) -> None:
    """The data are the same; the sums are rounded otherwise."""
    plain = options | {"model": _without_dropout(options["model"], tmp_path), "tokens": 320}
    whole = run_cpt(CptSettings(**plain, out=str(tmp_path / "whole")))
    run_cpt(CptSettings(**plain, out=str(tmp_path / "one"), keep_states=9, keep_state=True))
    held = tmp_path / "one.run" / "state"
    for path in held.iterdir():
        if path.name != "step-00000003.pt":
            path.unlink()
    (tmp_path / "one.run").rename(tmp_path / "two.run")
    second = run_cpt(CptSettings(**plain | {"micro_batch": 3}, out=str(tmp_path / "two"), resume=True))
    assert second.tokens == whole.tokens
    assert second.final_loss == pytest.approx(whole.final_loss, rel=1e-5)


def _without_dropout(model: str, tmp_path: Path) -> str:
    folder = tmp_path / "sober"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.0}))
    return str(folder)


@pytest.mark.long
def test_killed_twenty_times_at_random_moments(options: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL, also while a state is written: at most the steps since the last one are lost, and the bytes are the
    same in the end."""
    options = options | {"save_every": 2, "tokens": 38_400, "eval_every": 200}
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    out = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    words = [sys.executable, "-c", PROGRAM, json.dumps(options | {"out": str(out), "resume": True})]
    moments, reached = random.Random(0), 0
    for _ in range(20):
        process = subprocess.Popen(
            words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        metrics, begun = tmp_path / "killed.run" / "metrics.jsonl", time.monotonic()
        before = metrics.stat().st_mtime_ns if metrics.is_file() else 0
        while process.poll() is None and (not metrics.is_file() or metrics.stat().st_mtime_ns == before):
            time.sleep(0.002)
            assert time.monotonic() - begun < 60
        time.sleep(moments.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        saved = state.latest(tmp_path / "killed.run")
        step = state.load(saved).step if saved else 0
        assert step >= reached
        reached = step
    assert reached
    run_cpt(CptSettings(**options, out=str(out), resume=True))
    assert files(out) == files(tmp_path / "whole")
