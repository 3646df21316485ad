"""Changing a checkpoint where it lies: everything is prepared beside it, then carried out step by step from a journal.

What is promised, whenever it is killed:

    until config.json steps aside       the old checkpoint, whole; what was prepared is thrown away by the next change
    until the new config.json comes     no checkpoint: there is no config.json, so that every library refuses it, and
                                        the weights are changed in the stage, where none of them looks; surgeon says
                                        which command finishes it, and `resume` does, however often it is interrupted
    from then on                        the new checkpoint, whole; the same command only takes the journal away

Both ends are one rename each, of config.json; so is every step between, or it can be done once more. At no moment is
there a config.json with weights or an index of the other state. A power cut while the file system moves extents may
leave neither: this is for those who have another copy.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from surgeon.checkpoint.commit import lock_beside, sync, sync_tree, unlock
from surgeon.checkpoint.copy_file import write_at
from surgeon.checkpoint.insert_range import insert_front
from surgeon.errors import SurgeonError

STAGE = ".surgeon-in-place"
# in the stage: what is to be done; new headers; new files; what stepped aside; old shards (by number, so that nobody
# takes them for weights), and that all of them are there
JOURNAL, HEADERS, FILES, ASIDE, WEIGHTS, GATHERED = "journal.json", "headers", "files", "aside", "weights", "gathered"
_CONFIG = "config.json"
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
    """What is to be done: shards changed and renamed, files of the stage moved into the checkpoint, old files that
    step aside first. The stage's files stand under FILES with the names that they get, config.json among them.
    request: the operation and its options, as a person would give them again."""

    request: list[str]
    shards: list[ShardChange]
    files: list[str]
    aside: list[str] = field(default_factory=list)


def is_begun(folder: Path) -> bool:
    """Whether a change of the checkpoint is past the point of no return, and its journal still there."""
    return os.path.lexists(folder / STAGE / ASIDE / _CONFIG)


def is_between(folder: Path) -> bool:
    """Whether a change of the checkpoint was interrupted where it is neither the old nor the new one."""
    return is_begun(folder) and (folder / STAGE / FILES / _CONFIG).is_file()


def check_whole(folder: Path) -> None:
    """Refuse a checkpoint between two states, with the command that finishes it."""
    if is_between(folder):
        raise SurgeonError(
            "a change of this checkpoint in its place was interrupted", str(folder), f"finish it: {_command(folder)}"
        )


@contextmanager
def prepared(folder: Path) -> Iterator[Path]:
    """The stage of a change, held for this process alone; removed where the change is not begun."""
    lock = lock_beside(folder)
    stage = folder / STAGE
    try:
        if is_begun(folder):
            raise _unfinished(folder)
        shutil.rmtree(stage, ignore_errors=True)
        for name in (HEADERS, FILES, ASIDE, WEIGHTS):
            (stage / name).mkdir(parents=True)
        yield stage
    finally:
        if not is_begun(folder):
            shutil.rmtree(stage, ignore_errors=True)
        unlock(lock)


def begin(folder: Path, journal: Journal, step: Step = lambda _: None) -> None:
    """Write the journal, pass the point of no return, and carry everything out."""
    stage = folder / STAGE
    (stage / JOURNAL).write_text(json.dumps(asdict(journal)), encoding="utf-8")
    sync_tree(stage)
    sync(folder)
    step("prepared")
    _move(folder / _CONFIG, stage / ASIDE / _CONFIG)
    step(f"aside {_CONFIG}")
    _finish(folder, step)


def resume(folder: Path, request: Sequence[str], step: Step = lambda _: None) -> bool:
    """Finish a change that was interrupted; False where there is none. Raises SurgeonError where it was another
    request: what is asked for now would be left undone, and be taken for done."""
    if not is_begun(folder):
        return False
    lock = lock_beside(folder)
    try:
        if not is_begun(folder):
            return False
        if _read(folder).request != list(request):
            raise _unfinished(folder)
        _finish(folder, step)
        return True
    finally:
        unlock(lock)


def _finish(folder: Path, step: Step) -> None:
    """Carry out what the journal says from wherever it was left; every step may have been done already."""
    stage, journal = folder / STAGE, _read(folder)
    if is_between(folder):
        if not (stage / GATHERED).exists():
            _gather(folder, stage, journal, step)
        for number, change in enumerate(journal.shards):
            place = stage / WEIGHTS / str(number)
            if place.exists():
                _change(place, stage, change, step)
                place.replace(folder / change.new)
            step(f"renamed {change.old}")
        for name in journal.files:
            if name == _CONFIG:
                continue
            if (stage / FILES / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (stage / FILES / name).replace(folder / name)
            step(f"moved {name}")
        sync(folder)
        _move(stage / FILES / _CONFIG, folder / _CONFIG)
        step(f"new {_CONFIG}")
    (stage / ASIDE / _CONFIG).unlink()
    sync(stage / ASIDE)
    step("done")
    shutil.rmtree(stage)


def _gather(folder: Path, stage: Path, journal: Journal, step: Step) -> None:
    """Take the old shards into the stage: until all are there none has gone back, whatever it will be called."""
    for name in journal.aside:
        if os.path.lexists(folder / name):
            _move(folder / name, stage / ASIDE / name)
        step(f"aside {name}")
    for number, change in enumerate(journal.shards):
        place = stage / WEIGHTS / str(number)
        if not place.exists():
            if not (folder / change.old).is_file():
                raise _changed(folder / change.old, "the shard that the journal knows is gone")
            (folder / change.old).replace(place)
        step(f"gathered {change.old}")
    sync(stage / WEIGHTS)
    (stage / GATHERED).touch()
    sync(stage)
    step("gathered")


def _change(path: Path, stage: Path, change: ShardChange, step: Step) -> None:
    """Room and a new header. Its length is written last: until then it is 0, which every reader refuses."""
    if not change.header:
        return
    header = (stage / HEADERS / change.header).read_bytes()
    handle = os.open(path, os.O_RDWR)
    try:
        size = os.fstat(handle).st_size
        if size not in (change.size, change.size + change.grow):
            raise _changed(path, f"the shard {change.old} has {size:,} bytes, the journal knows {change.size:,}")
        if change.grow and size == change.size:
            insert_front(handle, change.grow)
        step(f"grown {change.old}")
        write_at(handle, memoryview(bytes(8)), 0)
        write_at(handle, memoryview(header)[8:], 8)
        os.fsync(handle)
        step(f"header of {change.old}")
        write_at(handle, memoryview(header)[:8], 0)
        os.fsync(handle)
    finally:
        os.close(handle)
    step(f"changed {change.old}")


def _move(source: Path, target: Path) -> None:
    source.replace(target)
    sync(target.parent)
    sync(source.parent)


def _read(folder: Path) -> Journal:
    value = json.loads((folder / STAGE / JOURNAL).read_text(encoding="utf-8"))
    return Journal(**value | {"shards": [ShardChange(**entry) for entry in value["shards"]]})


def _command(folder: Path) -> str:
    operation, *options = _read(folder).request
    return shlex.join(["surgeon", operation, str(folder), str(folder), *options])


def _unfinished(folder: Path) -> SurgeonError:
    return SurgeonError(
        "another change of this checkpoint in its place was interrupted",
        str(folder),
        f"finish it first: {_command(folder)}",
    )


def _changed(path: Path, problem: str) -> SurgeonError:
    return SurgeonError(problem, str(path), "it was changed by something else: restore the checkpoint from a copy")
