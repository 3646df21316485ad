"""A piece of a sum that is written while it is computed."""

from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from surgeon.checkpoint.direct import DirectFile
from surgeon.ops.sum_task import AHEAD, _Behind, _Slot


def test_a_write_that_fails_leaves_no_later_one_to_a_closed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be another file's by then."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * AHEAD))
    closed: list[bool] = []
    write = DirectFile.write

    def slow(file: DirectFile, position: int, nbytes: int) -> None:
        if position == 0:
            raise OSError(errno.ENOSPC, "full")
        time.sleep(0.2)
        closed.append(not Path(f"/proc/self/fd/{file._handle}").exists())
        write(file, position, nbytes)

    monkeypatch.setattr(DirectFile, "write", slow)
    slot = _Slot(DirectFile.buffer(3 * AHEAD))
    file = DirectFile(path, slot.memory)
    with ThreadPoolExecutor(1) as pool:
        file.piece(0, 3 * AHEAD)[:] = b"\7" * (3 * AHEAD)
        behind = _Behind(pool, file, slot.writes, 0, 3 * AHEAD)
        for _ in range(3):
            behind.computed(AHEAD)
        slot.writes.append(pool.submit(file.close))
        with pytest.raises(OSError, match="full"):
            slot.wait()
        assert len(closed) == 2 and not slot.writes  # the buffer is free when the refusal comes
    assert closed == [False, False]
    assert path.read_bytes() == bytes(AHEAD) + b"\7" * (2 * AHEAD)
