"""The checkpoints of one training run, in the order of the number in their names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from surgeon.checkpoint.index import ADAPTER_CONFIG, CONFIG
from surgeon.checkpoint.lineage import read_lineage
from surgeon.errors import SurgeonError

RUN, CHECKPOINTS = ".run", "checkpoints"  # as cpt has them: OUT.run/checkpoints beside OUT
# one number, at the end: step-00000100, checkpoint-500, global_step500; not .step-00000100.partial, not llama-3-8b
_NUMBERED = re.compile(r"(?!\.)[^0-9]*([0-9]+)")
_SOME = 6  # names that an error lists


@dataclass(frozen=True)
class RunCheckpoint:
    """A checkpoint folder, and the number in its name."""

    path: Path
    step: int


def numbered(folder: Path) -> list[RunCheckpoint]:
    """The subfolders named with a number, oldest (smallest) first. Raises SurgeonError where two have one number."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return in_order([RunCheckpoint(p, step) for p in paths if p.is_dir() and (step := _step(p)) is not None])


def in_order(checkpoints: Sequence[RunCheckpoint]) -> list[RunCheckpoint]:
    """By number, oldest first: 9, 10, 100. Raises SurgeonError where two have one number."""
    found = sorted(checkpoints, key=lambda c: c.step)
    for one, other in pairwise(found):
        if one.step == other.step:
            raise SurgeonError(
                f"{one.path.name} and {other.path.name} have one number: which is newer is not clear",
                str(other.path),
                "move one of the two away",
            )
    return found


def checkpoints_of(run: Path) -> list[RunCheckpoint]:
    """All checkpoints of a run, oldest first: those in the folder itself, in its subfolder `checkpoints`, or kept
    beside it by cpt (in OUT.run/checkpoints). Raises SurgeonError where there are none."""
    out = Path(os.path.abspath(run))  # noqa: PTH100 - `..` is taken as it is written, as cpt does
    for place in (run, run / CHECKPOINTS, out.with_name(out.name + RUN) / CHECKPOINTS):
        found = numbered(place)
        if found:
            return found
    there = "it has no subfolder named with a number" if run.is_dir() else "there is no such folder"
    raise SurgeonError(
        f"no checkpoints of a run are here: {there}",
        str(run),
        "keep them: surgeon cpt --keep-checkpoints N; or give the folder that holds checkpoint-500, checkpoint-1000",
    )


def last_of(run: Path, last: int) -> list[RunCheckpoint]:
    """The newest `last` checkpoints of a run, oldest of them first. Raises SurgeonError where there are fewer."""
    found = checkpoints_of(run)
    if len(found) < last:
        raise SurgeonError(
            f"of the last {last} checkpoints only {len(found)} are there ({_names(found)})",
            str(found[0].path.parent),
            f"--last {len(found)}, or train again with --keep-checkpoints {last} (and a smaller --save-every)",
        )
    return found[-last:]


def named(run: Path, names: Sequence[str]) -> list[RunCheckpoint]:
    """Some checkpoints of a run by the names of their folders (or absolute paths), in the order of their numbers.

    Raises SurgeonError on one that is not there or has no number.
    """
    chosen = []
    for name in names:
        path = Path(name) if Path(name).is_absolute() else checkpoints_of(run)[0].path.parent / name
        step = _step(path)
        if step is None or not path.is_dir():
            known = _names(numbered(path.parent)) or "none"
            problem = "has no number at the end of its name" if path.is_dir() else "is not there"
            raise SurgeonError(f"the checkpoint {path.name} {problem}", str(path), f"there are: {known}")
        chosen.append(RunCheckpoint(path, step))
    return in_order(chosen)


def check_one_run(checkpoints: Sequence[RunCheckpoint]) -> None:
    """Refuse adapters, and checkpoints whose lineages say that they are of different runs."""
    known = []
    for checkpoint in checkpoints:
        if (checkpoint.path / ADAPTER_CONFIG).is_file() and not (checkpoint.path / CONFIG).is_file():
            raise SurgeonError(
                "adapters cannot be averaged: the mean of A times the mean of B is not the mean of BA",
                str(checkpoint.path),
                "average models into which the adapters were folded (surgeon fold-adapter)",
            )
        lineage = read_lineage(checkpoint.path)
        if lineage is not None:
            run = (lineage.operation, [p.digest for p in lineage.parents], lineage.plan)
            known.append((checkpoint, run))
    for checkpoint, run in known:
        first = known[0]
        if run != first[1]:
            what = "descend from different models" if run[:2] != first[1][:2] else "are of different runs"
            raise SurgeonError(
                f"{first[0].path.name} and {checkpoint.path.name} {what}",
                f"{checkpoint.path}/surgeon.json",
                "average the checkpoints of one run; different models meet by surgeon merge or merge-task-vectors",
            )


def _step(path: Path) -> int | None:
    match = _NUMBERED.fullmatch(path.name)
    return None if match is None else int(match[1])


def _names(checkpoints: Sequence[RunCheckpoint]) -> str:
    names = [c.path.name for c in checkpoints]
    return ", ".join(names if len(names) <= _SOME else [*names[:2], "...", *names[-2:]])
