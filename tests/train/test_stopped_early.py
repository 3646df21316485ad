"""SIGTERM outside of the steps: what was begun is cleared away, and the exit code is that of an interrupt."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import warm

from surgeon.train.parallel import SOLO
from surgeon.train.stop import Stop, whole

# the command line, with a signal to itself where a function of surgeon.train.run begins
PROGRAM = """
import os, signal, sys
from surgeon.train import run
from surgeon.cli.app import main

name, number, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
real = getattr(run, name)

def struck(*given, **named):
    done = real(*given, **named)
    os.kill(os.getpid(), number)
    return done

setattr(run, name, struck)
main(words)
"""


def struck(function: str, number: int, words: list[str]) -> subprocess.CompletedProcess[str]:
    return warm.run(["-c", PROGRAM, function, str(number), *words])


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_stop_outside_of_the_steps(number: int, tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["cpt", str(tiny("llama")), str(out), "--data", str(corpus), "--tokens", "64", "--seq-len", "16"]
    before = set(tmp_path.iterdir())
    done = struck("prepare", number, words)
    assert (done.returncode, done.stdout) == (130, "") and done.stderr.endswith("interrupted\n"), done.stderr
    assert set(tmp_path.iterdir()) == before
    done = struck("write_folder", number, words)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.endswith(".pt is kept: --resume goes on with it\ninterrupted\n"), done.stderr
    assert set(tmp_path.iterdir()) == before | {tmp_path / "out.run"}
    warm.run(["-m", "surgeon", *words, "--resume"], check=True)
    assert set(tmp_path.iterdir()) == before | {out}


def test_what_is_written_whole_is_not_broken_off() -> None:
    reached = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt), whole():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")
    finally:
        signal.signal(signal.SIGINT, before)
    with Stop(SOLO) as stop:
        with whole():
            signal.raise_signal(signal.SIGTERM)
            assert not stop.asked()
        assert stop.asked()
    assert reached
