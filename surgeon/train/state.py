"""The state of a run: what it takes to go on as if nothing had happened.

Trained tensors in float32, the optimizer's state, and one integer for the data. There is no state of random
generators: every step seeds them from (seed, step).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgeon.checkpoint.config_json import dump_json, read_json_object
from surgeon.errors import SurgeonError

SETTINGS, METRICS, STATES = "settings.json", "metrics.jsonl", "state"


@dataclass(frozen=True)
class State:
    """step: optimiser steps done. tokens: trained on so far. loss: of the last step. parameters: by name. evals:
    results so far."""

    step: int
    tokens: int
    loss: float | None
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    evals: list[dict[str, Any]]


def save(run_dir: Path, state: State) -> None:
    """The newest state in one file, complete before it takes its name; older ones are removed after that."""
    folder = run_dir / STATES
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state.step:08d}.pt"
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        torch.save(vars(state), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    for other in folder.iterdir():
        if other != path:
            other.unlink()


def latest(run_dir: Path) -> Path | None:
    """The file of the newest state, None if there is none."""
    found = sorted((run_dir / STATES).glob("step-*.pt"))
    return found[-1] if found else None


def load(path: Path) -> State:
    """Read a state; only tensors and plain data are accepted."""
    try:
        return State(**torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise SurgeonError("the state cannot be read", str(path), "start anew with --force") from error


def restore(state: State, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Put a state into the model's trained tensors and the optimizer."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.parameters[name])
    optimizer.load_state_dict(state.optimizer)


def record_settings(run_dir: Path, record: Mapping[str, Any]) -> None:
    """Write down what the run was started with."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / SETTINGS).write_text(dump_json(dict(record)), encoding="utf-8")


def check_settings(run_dir: Path, record: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings or inputs than the run was started with; names what changed."""
    before = read_json_object(run_dir / SETTINGS)
    changed = [key for key in sorted({*before, *record}) if before.get(key) != record.get(key)]
    if changed:
        what = ", ".join(f"{key} ({before.get(key)} -> {record.get(key)})" for key in changed)
        raise SurgeonError(
            f"the run cannot go on, because this changed: {what}",
            str(run_dir / SETTINGS),
            "give the same settings and inputs with --resume, or --force to start anew",
        )
