"""A run that is interrupted, stopped or killed at any moment, and what it may go on with."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm
from resume_runs import PROGRAM, files, options_of

from surgeon.train import state
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings


@pytest.fixture
def options(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    return options_of(tiny, corpus, tmp_path, monkeypatch)


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
    assert err.endswith(".pt is kept: --resume goes on with it\ninterrupted\n")
    assert not (tmp_path / "one").exists()
    held = sorted(path.name for path in (tmp_path / "one.run" / "state").iterdir())
    assert len(held) in (1, 2) and all(name.endswith(".pt") for name in held)  # the one before until a step is done


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
    assert err.endswith(".pt is kept: --resume goes on with it\ninterrupted\n")
    saved = state.latest(tmp_path / "one.run")
    assert saved is not None and not out.exists()
    assert state.load(saved).step == json.loads(metrics.read_text().splitlines()[-1])["step"]
    warm.run([*run[1:], "--resume"], check=True)
    warm.run([*run[1:4], options["model"], str(tmp_path / "whole"), *run[6:]], check=True)
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
