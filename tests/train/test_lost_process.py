"""Where one process of several is gone, the others say that, and no more of torch's inner life."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torchrun import torchrun

PROGRAM = Path(__file__).parents[1] / "cli" / "refusals_of_several.py"
OBJECTIVE = '''
import os, signal
from surgeon.train.objectives.next_token import next_token

def fatal(nats):
    """next_token in the first process; the other one is killed."""
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return next_token(nats)
'''


def test_a_process_that_was_killed_ends_the_others_with_a_refusal(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lethal.py").write_text(OBJECTIVE)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    words = ["cpt", str(tiny("llama")), str(out), "--data", str(corpus), "--tokens", "128", "--seq-len", "16"]
    words += ["--batch-tokens", "64", "--device", "cpu", "--objective", "lethal:fatal"]
    done = torchrun(PROGRAM, json.dumps([words]))
    assert done.returncode and not out.exists()
    assert "error: another process of the run ended while process 0 of 2 waited for it\nwhere: torchrun" in done.stderr
    assert "unexpected RuntimeError" not in done.stderr
