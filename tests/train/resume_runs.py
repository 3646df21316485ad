"""Runs that can be killed at a given moment, and what their outputs are compared by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


def options_of(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Settings of a run of ten steps with all that has a state."""
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
