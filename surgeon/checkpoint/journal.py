"""Changing a checkpoint where it lies: everything is prepared beside it, then carried out step by step from a journal.

Until the mark CHANGING is on the disk the checkpoint is the old one. After that it is between two states, is refused
by whoever opens it, and every step of the journal can be done once more: `finish` makes it the new one, however often
it is interrupted. A kill at any moment leaves one of the two. A power cut while the file system moves extents may
leave neither: this is for those who have another copy.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from surgeon.checkpoint.commit import lock_beside, sync, sync_tree, unlock
from surgeon.checkpoint.copy_file import write_at
from surgeon.checkpoint.insert_range import insert_front
from surgeon.errors import SurgeonError

STAGE = ".surgeon-in-place"
JOURNAL, CHANGING, HEADERS = "journal.json", "changing", "headers"
Step = Callable[[str], None]


@dataclass(frozen=True)
class ShardChange:
    """An old shard: its name and size before, its name after, how many bytes come before it, and the file under
    HEADERS with its new header (empty: it stays as it is)."""

    old: str
    new: str
    size: int
    grow: int = 0
    header: str = ""


@dataclass(frozen=True)
class Journal:
    """What is to be done: shards changed and renamed, files of the stage moved into the checkpoint, old files removed.
    The stage's files stand under `files/` with the names that they get."""

    shards: list[ShardChange]
    files: list[str]
    removed: list[str] = field(default_factory=list)


def is_between(folder: Path) -> bool:
    """Whether a change of the checkpoint was interrupted behind the point of no return."""
    return (folder / STAGE / CHANGING).is_file()


@contextmanager
def prepared(folder: Path) -> Iterator[Path]:
    """The stage of a change, held for this process alone; removed where the change is not begun."""
    lock = lock_beside(folder)
    stage = folder / STAGE
    try:
        if is_between(folder):
            raise SurgeonError(
                "an earlier change of this checkpoint was interrupted", str(folder), "finish it first: run it again"
            )
        shutil.rmtree(stage, ignore_errors=True)
        (stage / HEADERS).mkdir(parents=True)
        (stage / "files").mkdir()
        yield stage
    finally:
        if not is_between(folder):
            shutil.rmtree(stage, ignore_errors=True)
        unlock(lock)


def begin(folder: Path, journal: Journal, step: Step = lambda _: None) -> None:
    """Write the journal, mark the point of no return, and carry everything out."""
    stage = folder / STAGE
    (stage / JOURNAL).write_text(json.dumps(asdict(journal)), encoding="utf-8")
    sync_tree(stage)
    sync(folder)
    step("prepared")
    (stage / CHANGING).touch()
    sync(stage / CHANGING)
    sync(stage)
    finish(folder, step)


def finish(folder: Path, step: Step = lambda _: None) -> None:
    """Carry out what the journal says from wherever it was left; every step may have been done already."""
    stage = folder / STAGE
    value = json.loads((stage / JOURNAL).read_text(encoding="utf-8"))
    for entry in value["shards"]:
        _change(folder, stage, ShardChange(**entry), step)
    for name in value["removed"]:
        (folder / name).unlink(missing_ok=True)
        step(f"removed {name}")
    for name in value["files"]:
        if (stage / "files" / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / "files" / name).replace(folder / name)
        step(f"moved {name}")
    sync(folder)
    (stage / CHANGING).unlink()
    sync(stage)
    step("done")
    shutil.rmtree(stage)


def _change(folder: Path, stage: Path, change: ShardChange, step: Step) -> None:
    path = folder / change.old
    if not path.exists():
        path = folder / change.new  # renamed already
    if change.header:
        header = (stage / HEADERS / change.header).read_bytes()
        handle = os.open(path, os.O_RDWR)
        try:
            size = os.fstat(handle).st_size
            if size not in (change.size, change.size + change.grow):
                raise SurgeonError(
                    f"the shard has {size:,} bytes, the journal knows {change.size:,}",
                    str(path),
                    "it was changed by something else: restore the checkpoint from a copy",
                )
            if change.grow and size == change.size:
                insert_front(handle, change.grow)
            step(f"grown {change.old}")
            write_at(handle, memoryview(header), 0)
            os.fsync(handle)
        finally:
            os.close(handle)
        step(f"header of {change.old}")
    if change.new != path.name:
        path.replace(folder / change.new)
    step(f"renamed {change.old}")
