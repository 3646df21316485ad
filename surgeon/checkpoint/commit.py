"""All or nothing at the output path: a folder beside it, fsync, one rename."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from surgeon.checkpoint.file_lock import hold
from surgeon.errors import SurgeonError

RUN_LOCK = "lock"  # in OUT.run, held by the training run that is to write OUT
KEY, PROGRESS = ".plan", ".progress"  # in a folder that is being written: whose it is, and what is done
_AT_FDCWD, _NOREPLACE, _EXCHANGE = -100, 1, 2


def check_out(out: Path, force: bool = False) -> None:
    """Refuse an output path that is taken or cannot be made, before any work is done."""
    if (out.exists() or out.is_symlink()) and not force:
        raise SurgeonError("the output exists already", str(out), "choose another path, or --force to replace it")
    if out.is_symlink():
        raise SurgeonError("the output path is a link", str(out), "give the path of the folder itself")
    if out.exists() and not out.is_dir():
        raise SurgeonError("the output path is a file", str(out), "give the path of a folder")
    if out.exists() and Path.cwd().is_relative_to(out.resolve()):
        raise SurgeonError("the output would replace the current folder", str(out), "give a folder of its own")
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise SurgeonError("the output's folder cannot be written", str(parent), "choose another path")


def check_no_run(out: Path) -> None:
    """Refuse an output for which a training run is at work: it would find the place taken when it is done."""
    run_dir = out.absolute().with_name(f"{out.absolute().name}.run")
    try:
        handle = os.open(run_dir / RUN_LOCK, os.O_RDONLY)
    except OSError:  # no run, or one that has just ended
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SurgeonError(
            "another process is training to this output", str(run_dir), "wait for it, or choose another path"
        ) from error
    finally:
        os.close(handle)


def check_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that would replace an input, or lie inside one: inputs are never changed."""
    place = out.resolve()
    for path in inputs:
        held = path.resolve()
        if held.is_relative_to(place) or place.is_relative_to(held):
            inside = "is an input" if held == place else "holds an input" if held.is_relative_to(place) else ""
            raise SurgeonError(
                f"the output {inside or 'lies inside an input'}, which is never changed",
                f"{out} and {path}",
                "choose another path",
            )


@contextmanager
def staged(out: Path, force: bool = False, plan_digest: str | None = None) -> Iterator[Path]:
    """A fresh folder beside `out` that becomes `out` by one rename when the block ends well.

    On an exception it is removed; after a kill at any moment `out` is as it was before (with force: the old one or
    the new one, exchanged in one step), and the next writer to `out` removes what was left beside it. Where a
    plan_digest is given, what an interrupt or a kill left is kept for a writer with the same one (see claim).
    """
    check_out(out, force)
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.partial"
    lock = lock_beside(out)
    kept = False
    try:
        # what a killed writer left: the lock says nobody is writing
        with told_when_full(out.parent):
            claim(folder, plan_digest)
            yield folder
            sync_tree(folder)
            _publish(folder, out, force)
            sync(out.parent)
    except KeyboardInterrupt:
        kept = plan_digest is not None and (folder / PROGRESS).is_file()
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
        unlock(lock)


@contextmanager
def told_when_full(place: Path) -> Iterator[None]:
    """Raises SurgeonError, which names the place, where there is no room; what the system says has no name."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise SurgeonError(
                f"the disk is full ({os.strerror(error.errno)})", str(place), "free some space and run it again"
            ) from error
        raise


def claim(folder: Path, plan_digest: str | None) -> None:
    """Make `folder` an empty place for an output, or one that holds the beginning of an output of the same plan:
    shards and the record of what is in them, nothing else, and nothing of another plan."""
    key = folder / KEY
    if plan_digest is not None and key.is_file() and key.read_text(encoding="utf-8") == plan_digest:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in (KEY, PROGRESS) and path.suffix != ".safetensors":
                path.unlink()
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if plan_digest is not None:
        key.write_text(plan_digest, encoding="utf-8")


def write_atomically(path: Path, text: str | bytes) -> None:
    """A single file, complete or not there."""
    temporary = path.with_name(f".{path.name}.partial")
    raw = text.encode("utf-8") if isinstance(text, str) else text
    try:
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a write: it does not say where
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _publish(folder: Path, out: Path, force: bool) -> None:
    if force and out.exists():
        _renameat2(folder, out, _EXCHANGE)  # the old output is now at `folder`, removed by the caller
    else:
        _renameat2(folder, out, _NOREPLACE)


def _renameat2(source: Path, target: Path, flag: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        raise SurgeonError("the output exists already", str(target), "it was made meanwhile: choose another path")
    if code in (errno.EINVAL, errno.ENOSYS) and flag == _NOREPLACE:
        source.rename(target)  # a file system without the flag; rename refuses a folder that is not empty
        return
    raise OSError(code, os.strerror(code), str(target))


def lock_beside(out: Path) -> tuple[int, Path]:
    """Hold an output for this process alone, by a file beside it."""
    path = out.parent / f".{out.name}.lock"
    try:
        return hold(path), path
    except BlockingIOError as error:
        raise SurgeonError(
            "another process is writing this output", str(out), "wait for it, or choose another path"
        ) from error


def unlock(lock: tuple[int, Path]) -> None:
    lock[1].unlink(missing_ok=True)
    os.close(lock[0])


def sync_tree(folder: Path) -> None:
    """Everything below a folder, and the folder, to the disk."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """A file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
