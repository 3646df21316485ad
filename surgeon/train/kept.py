"""The checkpoints that a run keeps on its way: OUT.run/checkpoints/step-00000100, the newest N of them.

Each is a complete model that loads on its own. They stay when the run is done: `surgeon average` takes them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.run_checkpoints import CHECKPOINTS, numbered
from surgeon.train.settings import CptSettings

# a folder, and what a killed writer of one leaves beside it (see surgeon.checkpoint.commit)
_OURS = re.compile(r"step-[0-9]{8,}|\.step-[0-9]{8,}\.(partial|lock)")


def check_keeping(settings: CptSettings) -> None:
    """Refuse to keep checkpoints of an adapter: they are kept to be averaged, and the average of A and of B is not
    that of BA."""
    if settings.keep_checkpoints and settings.train == "adapter":
        raise UsageError(
            "checkpoints of an adapter cannot be averaged: the mean of A times the mean of B is not the mean of BA",
            "--keep-checkpoints",
            "leave it out; or train with --train full, or average models into which the adapters were folded",
        )


def step_path(run_dir: Path, step: int) -> Path:
    """Where the checkpoint after this many steps is kept."""
    return run_dir / CHECKPOINTS / f"step-{step:08d}"


def kept(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return [checkpoint.path for checkpoint in numbered(run_dir / CHECKPOINTS)]


def is_ours(run_dir: Path) -> bool:
    """Whether nothing but kept checkpoints lies where they are kept."""
    folder = run_dir / CHECKPOINTS
    return not folder.exists() or (folder.is_dir() and all(_OURS.fullmatch(p.name) for p in folder.iterdir()))


def check_free(run_dir: Path) -> None:
    """Refuse to begin a run where checkpoints of another one are kept."""
    if kept(run_dir):
        raise SurgeonError(
            "checkpoints of an earlier run to this output are kept",
            str(run_dir / CHECKPOINTS),
            "move them away, choose another output, or --force to start anew without them",
        )


def prune(run_dir: Path, count: int) -> None:
    """Remove all but the newest `count`, and what killed writers left. For the process that holds the run."""
    newest = set(kept(run_dir)[-count:]) if count else set()
    for path in sorted((run_dir / CHECKPOINTS).glob("*")):
        if path not in newest and _OURS.fullmatch(path.name):
            _remove(path)


def clear(run_dir: Path) -> None:
    """Forget the kept checkpoints."""
    prune(run_dir, 0)
    if (run_dir / CHECKPOINTS).is_dir():
        (run_dir / CHECKPOINTS).rmdir()


def _remove(path: Path) -> None:
    """Under its name a checkpoint is whole until it is gone."""
    if path.name.startswith("."):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    aside = path.with_name(f".{path.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside)
