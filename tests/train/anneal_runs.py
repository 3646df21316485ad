"""A run at a constant rate and its forks by cpt anneal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgeon.train.anneal import AnnealSettings, anneal
from surgeon.train.run import CptResult, run_cpt
from surgeon.train.settings import CptSettings

WEIGHTS = "model.safetensors"


def tree(*folders: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}


def run_options(model: Path, corpus: Path) -> dict[str, Any]:
    """Steps of 64 tokens; replay and a regulariser, which know of steps or of the base."""
    return {
        "model": str(model), "data": (str(corpus),), "replay": (f"old={corpus}:2",), "replay_ratio": 0.3,
        "seq_len": 16, "batch_tokens": 64, "micro_batch": 2, "lr": 1e-2, "regularize": ("l2_to_base",),
        "option": {}, "device": "cpu", "seed": 3,
    }  # fmt: skip


def constant_run(options: dict[str, Any], out: Path) -> Path:
    """Six steps at a constant rate after a warm-up of two, all kept, with the last state."""
    settings = options | {"tokens": 6 * 64, "schedule": "constant", "option": options["option"] | {"warmup": 2}}
    run_cpt(CptSettings(**settings, out=str(out), save_every=2, keep_checkpoints=9, keep_state=True))
    return out


def forked(options: dict[str, Any], run: Path, name: str, **changes: Any) -> tuple[CptResult, Path]:
    out = run.parent / name if run.parent.name != "checkpoints" else run.parent.parent.parent / name
    base = {"run": str(run), "out": str(out), "tokens": 4 * 64, "data": options["data"], "replay": options["replay"]}
    return anneal(AnnealSettings(**(base | changes))), out
