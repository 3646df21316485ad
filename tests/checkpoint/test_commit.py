"""Nothing or the whole at the output path, whenever the writer is killed."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surgeon.checkpoint.commit import lock_beside, staged, unlock, write_atomically
from surgeon.errors import SurgeonError

WRITER = """
import sys
from pathlib import Path
from surgeon.checkpoint.commit import staged
out, force = Path(sys.argv[1]), sys.argv[2] == "force"
print("ready", flush=True)
while True:
    with staged(out, force) as folder:
        for i in range(20):
            (folder / f"part-{i}").write_bytes(b"x" * 100_000)
    if not force:
        break
"""


def test_published_whole(tmp_path: Path) -> None:
    with staged(tmp_path / "a" / "out") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "x").read_text() == "1"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["out"]


def test_nothing_left_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "out") as folder:
        (folder / "x").write_text("1")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_and_replaced_only_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged(out) as folder:
        (folder / "old").write_text("1")
    with pytest.raises(SurgeonError), staged(out):
        pass
    with pytest.raises(ZeroDivisionError), staged(out, force=True) as folder:
        _ = 1 / 0
    assert [p.name for p in out.iterdir()] == ["old"]
    with staged(out, force=True) as folder:
        (folder / "new").write_text("2")
    assert [p.name for p in out.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_output_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SurgeonError), staged(out) as folder:
        (folder / "x").write_text("1")
        out.mkdir()
        (out / "theirs").write_text("2")
    assert [p.name for p in out.iterdir()] == ["theirs"]


def test_two_writers_of_one_output(tmp_path: Path) -> None:
    with staged(tmp_path / "out"):
        script = "import sys\nfrom pathlib import Path\nfrom surgeon.checkpoint.commit import staged\n"
        script += "with staged(Path(sys.argv[1])): pass"
        run = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "out")], capture_output=True, text=True, check=False
        )
        assert run.returncode != 0 and "another process" in run.stderr


@pytest.mark.parametrize("force", ["fresh", "force"])
def test_killed_at_any_moment(tmp_path: Path, force: str) -> None:
    out = tmp_path / "out"
    for attempt in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(out), force], stdout=subprocess.PIPE, env=dict(os.environ)
        )
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(0.002 * (attempt % 4) + 0.0007 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            assert len([p for p in out.iterdir() if p.stat().st_size == 100_000]) == 20
            if force == "fresh":
                break
    with staged(out, force=True) as folder:  # what a killed writer left beside it does not stand in the way
        (folder / "whole").write_text("1")
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == ["out"]


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer before ends between the opening of the file and its lock: another one may have made it anew."""
    take, out = fcntl.flock, tmp_path / "out"
    left = [1]

    def slow(handle: int, operation: int) -> None:
        if left:
            left.pop()
            (tmp_path / ".out.lock").unlink()
        take(handle, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    handle, path = lock_beside(out)
    assert os.path.samestat(os.fstat(handle), path.stat())
    with pytest.raises(SurgeonError, match="another process"):
        lock_beside(out)
    unlock((handle, path))
    assert not path.exists()


def test_a_file_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    write_atomically(path, "before")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as refused:
        write_atomically(path, "after")
    assert refused.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"] and path.read_text() == "before"
