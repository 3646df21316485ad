"""SIGINT, a person's Ctrl-C: the step is saved, in one process and in several; a second one ends the run at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from resume_runs import files

from surgeon.train import state
from surgeon.train.parallel import SOLO
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
from surgeon.train.stop import SAME, TOLD, Stop

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LEFT = ".pt is kept: --resume goes on with it\ninterrupted\n"


def begun(run: list[str], out: Path) -> subprocess.Popen[str]:
    """A run of the command line that has taken its first step."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    metrics = out.with_name(f"{out.name}.run") / "metrics.jsonl"
    while not metrics.is_file() or not metrics.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return process


def words(model: Path, out: Path, corpus: Path, tokens: int) -> list[str]:
    given = ["--tokens", str(tokens), "--seq-len", "16", "--batch-tokens", "64", "--save-every", "100000"]
    return ["cpt", str(model), str(out), "--data", str(corpus), "--lr", "0.01", "--device", "cpu", *given]


def test_the_first_one_saves(tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    model, out = tiny("llama"), tmp_path / "one"
    run = ["-m", "surgeon", *words(model, out, corpus, 12_800)]
    process = begun(run, out)
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate()
    assert (process.returncode, printed) == (130, ""), err
    assert err.count(TOLD) == 1 and err.endswith(LEFT), err
    assert state.latest(tmp_path / "one.run") is not None and not out.exists()
    given = {"model": str(model), "data": [str(corpus)], "lr": 0.01, "device": "cpu", "tokens": 12_800}
    given |= {"seq_len": 16, "batch_tokens": 64, "save_every": 100_000}
    run_cpt(CptSettings(**given, out=str(out), resume=True))
    run_cpt(CptSettings(**given, out=str(tmp_path / "whole")))
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("how", ["one", "launcher", "all"])
def test_several_processes_save_together(how: str, tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    """One process alone; the launcher, as in a terminal, which passes it on; the processes and the launcher too."""
    out = tmp_path / "out"
    process = begun([*LAUNCH, "-m", "surgeon", *words(tiny("llama"), out, corpus, 4_000_000)], out)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(workers) == 2
    for pid in {"one": workers[1:], "launcher": [process.pid], "all": [*workers, process.pid]}[how]:
        os.kill(pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode and err.count(TOLD) == 1, err
    assert err.count(".pt is kept: --resume goes on with it") == 1, err
    assert "error:" not in err, err
    saved = state.latest(tmp_path / "out.run")
    assert saved is not None and not out.exists()
    metrics = (tmp_path / "out.run" / "metrics.jsonl").read_text().splitlines()
    assert state.load(saved, tensors=False).step == len(metrics)


def test_a_second_one_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    now, said = [100.0], list[str]()
    monkeypatch.setattr("surgeon.train.stop.time.monotonic", lambda: now[0])
    try:
        with pytest.raises(KeyboardInterrupt), Stop(SOLO, said.append) as stop:
            assert not stop.asked()
            signal.raise_signal(signal.SIGINT)
            assert stop.asked()
            now[0] += SAME
            signal.raise_signal(signal.SIGINT)  # the same one, passed on by a launcher
            now[0] += SAME
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it went on")
        assert said == [TOLD]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_one_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop(SOLO) as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.asked()
    finally:
        signal.signal(signal.SIGINT, before)
