"""The state of a run: what it takes to go on as if nothing had happened.

Trained tensors in float32, the optimizer's state, and one integer for the data. There is no state of random
generators: every step seeds them from (seed, step).
"""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgeon.checkpoint.commit import RUN_LOCK, sync, sync_tree, write_atomically
from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.file_lock import hold
from surgeon.errors import SurgeonError
from surgeon.train import kept
from surgeon.train.began_with import began_with
from surgeon.train.intact import check_archive, crc32s, way_out
from surgeon.train.parallel import World
from surgeon.train.settings import ROUNDING
from surgeon.train.stop import whole

SETTINGS, METRICS, STATES, LOCK = "settings.json", "metrics.jsonl", "state", RUN_LOCK
SHARDS = ".shards"
_OURS = {SETTINGS, METRICS, STATES, LOCK, f".{METRICS}.partial", f".{SETTINGS}.partial"}


@dataclass(frozen=True)
class State:
    """step: optimiser steps done. tokens: trained on so far. loss: of the last step. parameters: by name. evals:
    results so far. hooks: the state of each, in order. guard: of the rule of divergence. shards: where
    several processes wrote the tensors: the folder beside it, and sizes and CRC-32 of the files there; the parameters
    and moments are then not here. held: the line of metrics.jsonl that waits for this step's evaluation, which was
    broken off; else empty."""

    step: int
    tokens: int
    loss: float | None
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    evals: list[dict[str, Any]]
    hooks: list[dict[str, Any]] = field(default_factory=list)
    guard: dict[str, float] = field(default_factory=dict)
    shards: dict[str, Any] | None = None
    held: dict[str, Any] = field(default_factory=dict)


@contextmanager
def owned(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone; one in which no run was started is removed again.

    Raises SurgeonError where another process trains into it, or where something that is no run has its name.
    """
    if run_dir.exists() and not _is_a_run(run_dir):
        raise SurgeonError(
            "where the run would keep its state there is something else",
            str(run_dir),
            "move it away, or choose another output",
        )
    handle = _hold(run_dir)
    try:
        yield
    finally:
        if not is_begun(run_dir):
            clear(run_dir)
            (run_dir / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # not empty: the next process has already made its own lock in it
                run_dir.rmdir()
        os.close(handle)


def is_begun(run_dir: Path) -> bool:
    """Whether a run was started there that is not done."""
    return (run_dir / SETTINGS).is_file()


def _is_a_run(run_dir: Path) -> bool:
    """Whether nothing lies there but what runs leave."""
    if not run_dir.is_dir():
        return False
    return {p.name for p in run_dir.iterdir()} <= {*_OURS, kept.CHECKPOINTS} and kept.is_ours(run_dir)


def _hold(run_dir: Path) -> int:
    """A handle on the folder's lock; the lock ends with the process, however it ends."""
    while True:
        run_dir.mkdir(parents=True, exist_ok=True)
        try:
            return hold(run_dir / LOCK)
        except FileNotFoundError:
            continue  # whoever held the folder has just removed it
        except BlockingIOError as error:
            raise SurgeonError(
                "another process is training to this output", str(run_dir), "wait for it, or choose another path"
            ) from error


def clear(run_dir: Path) -> None:
    """Forget the run in this folder; the lock and kept checkpoints stay."""
    if (run_dir / STATES).is_dir():
        shutil.rmtree(run_dir / STATES)
    for name in sorted(_OURS - {STATES, LOCK}):
        (run_dir / name).unlink(missing_ok=True)


def save(run_dir: Path, state: State, keep: int = 1) -> None:
    """The newest state in one file, complete before it takes its name; all but the newest `keep` are removed after
    that. Its shards, if it has some, are there already."""
    folder = run_dir / STATES
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state.step:08d}.pt"
    temporary = path.with_suffix(".partial")
    try:
        with whole():
            with temporary.open("wb") as file:
                torch.save(vars(state), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(folder)  # the name too is on the disk before older states go
    except (OSError, RuntimeError) as error:  # torch turns what the system says into a RuntimeError of its own
        temporary.unlink(missing_ok=True)
        raise _no_room(path) from error
    prune(run_dir, keep)


def prune(run_dir: Path, keep: int) -> None:
    """Remove all but the newest `keep` states, and what killed writers left."""
    folder = run_dir / STATES
    newest = {p.stem for p in saved(run_dir)[-keep:]}
    for other in sorted(folder.iterdir()):
        if other.stem not in newest or other.suffix not in (".pt", SHARDS):
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def tensors_of(
    run_dir: Path, step: int, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, world: World
) -> dict[str, Any]:
    """The fields of a state that hold tensors. Where several processes share these, each writes its part here and now,
    before the state that names them."""
    if world.size == 1:
        return {"parameters": {n: p.detach() for n, p in parameters.items()}, "optimizer": optimizer.state_dict()}
    folder = run_dir / STATES / f"step-{step:08d}{SHARDS}"
    there = load(folder.with_suffix(".pt"), tensors=False) if folder.with_suffix(".pt").is_file() else None
    if there is not None and there.shards is not None:  # the run went on from its last state: nothing is new
        return {"parameters": {}, "optimizer": there.optimizer, "shards": there.shards}
    if world.is_main:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir(parents=True)
    world.wait()
    from torch.distributed.checkpoint.api import CheckpointException  # costs time where one process is all there is

    from surgeon.train import shards

    try:
        with whole():
            rest = shards.save(folder, parameters, optimizer.state_dict())
    except (OSError, RuntimeError, CheckpointException) as error:
        if world.is_main:
            shutil.rmtree(folder, ignore_errors=True)
        raise _no_room(folder) from error
    if world.is_main:
        sync_tree(folder)
    paths = sorted(folder.iterdir())
    files = {path.name: path.stat().st_size for path in paths}
    sums = crc32s(paths) if world.is_main else {}  # it alone writes them down
    return {"parameters": {}, "optimizer": rest, "shards": {"folder": folder.name, "files": files, "crc32": sums}}


def _no_room(path: Path) -> SurgeonError:
    free = shutil.disk_usage(path.parent).free
    before = any(path.parent.glob("step-*.pt"))
    return SurgeonError(
        f"the state cannot be written ({free:,} bytes are free)",
        str(path),
        "free some space and go on with --resume: the state before this one is kept"
        if before
        else "free some space and begin again: nothing was saved before this state",
    )


def latest(run_dir: Path) -> Path | None:
    """The file of the newest state, None if there is none."""
    found = saved(run_dir)
    return found[-1] if found else None


def saved(run_dir: Path) -> list[Path]:
    """The files of all states, oldest first."""
    return sorted((run_dir / STATES).glob("step-*.pt"))


def load(path: Path, tensors: bool = True) -> State:
    """Read a state; only tensors and plain data are accepted. tensors: whether those of its shards are read too, all
    of them; else they are left to `restore_shards`."""
    try:
        check_archive(path)
        held = State(**torch.load(path, map_location="cpu", weights_only=True))
    except (
        OSError, RuntimeError, EOFError, TypeError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError
    ) as error:  # fmt: skip
        raise SurgeonError("the state cannot be read", str(path), way_out(path)) from error
    if held.shards is None or not tensors:
        return held
    from surgeon.train import shards

    parameters, optimizer = shards.whole(_complete(path.parent, held.shards), held.optimizer)
    return replace(held, parameters=parameters, optimizer=optimizer, shards=None)


def restore_shards(
    run_dir: Path, state: State, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, world: World
) -> None:
    """Put the parts of this process into its parts of the trained tensors and of the optimizer's state; all processes
    do it together."""
    from surgeon.train import shards

    order = [p for group in optimizer.param_groups for p in group["params"]]
    held = state.shards
    assert held is not None
    folder = world.from_main(lambda: _complete(run_dir / STATES, held))
    optimizer.load_state_dict(shards.load_into(folder, parameters, order, state.optimizer))


def _complete(states: Path, held: Mapping[str, Any]) -> Path:
    """The folder of the shards, with the files that were written. One that lacks would not be missed by who reads the
    others."""
    folder = states / held["folder"]
    found = {path.name: path.stat().st_size for path in folder.iterdir()} if folder.is_dir() else {}
    if found != held["files"]:
        raise SurgeonError("the parts of the state are not all there", str(folder), way_out(folder))
    if "crc32" in held and crc32s(folder / name for name in found) != held["crc32"]:  # older states have none
        raise SurgeonError("the parts of the state cannot be read", str(folder), way_out(folder))
    return folder


def record_settings(run_dir: Path, record: Mapping[str, Any]) -> None:
    """Write down what the run was started with."""
    write_atomically(run_dir / SETTINGS, dump_json(dict(record)))


def check_settings(run_dir: Path, record: Mapping[str, Any], rounding: Set[str] = ROUNDING) -> None:
    """Refuse to go on with other settings or inputs than the run was started with; names what changed. rounding: of
    the settings, what may."""
    before = began_with(run_dir / SETTINGS, "without it no state of the run can be gone on with: --force starts anew")
    changed = [key for key in sorted({*before, *record} - rounding) if before.get(key) != record.get(key)]
    if changed:
        what = ", ".join(f"{key} ({before.get(key)} -> {record.get(key)})" for key in changed)
        raise SurgeonError(
            f"the run cannot go on, because this changed: {what}",
            str(run_dir / SETTINGS),
            "give the same settings and inputs with --resume, or --force to start anew",
        )
