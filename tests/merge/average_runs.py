"""A real training that kept its checkpoints, what surgeon averages of it, and the plain mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from merge_models import tensors

from surgeon.merge.average import AverageSettings, plan_average
from surgeon.ops.execute import execute
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

STEPS = 7


def kept_run(stories: Path, out: Path) -> Path:
    """The output of a real training at a constant rate that kept the checkpoints after each of its seven steps."""
    corpus = str(stories.parent / "domain.valid.jsonl")
    run_cpt(
        CptSettings(
            model=str(stories), out=str(out), data=[corpus], tokens=STEPS * 256, seq_len=64, batch_tokens=256, lr=3e-3,
            schedule="constant", save_every=1, keep_checkpoints=STEPS, device="cpu",
        )
    )  # fmt: skip
    return out


def kept_steps(run: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    return [run.with_name("run.run") / "checkpoints" / f"step-{n:08d}" for n in range(1, STEPS + 1)]


def average(out: Path, run: Path, **settings: Any) -> Path:
    execute(plan_average(AverageSettings(run=str(run), out=out, **settings)), out)
    return out


def weights_bytes(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def mean(folders: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain mean in float64."""
    held = [tensors(f) for f in folders]
    for name in held[0]:
        yield name, torch.stack([h[name].double() for h in held]).mean(0)
