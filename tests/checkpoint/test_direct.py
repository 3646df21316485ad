"""Pieces written past the page cache: the bytes of a plain write, wherever the piece lies."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from surgeon.checkpoint import direct
from surgeon.checkpoint.direct import DirectFile
from surgeon.checkpoint.header import PAGE


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "disk":
        return tmp_path
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        pytest.skip("no file system in memory")
    found = shared / f"surgeon-{os.getpid()}-{tmp_path.name}"
    found.mkdir()
    request.addfinalizer(lambda: shutil.rmtree(found))
    return found


def test_any_pieces_in_any_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_LEAST", PAGE)
    rng = random.Random(0)
    size = 50 * PAGE + 1234
    data = rng.randbytes(size)
    path = folder / "file"
    path.write_bytes(b"")
    os.truncate(path, size)
    cuts = sorted({0, size, 1, 5 * PAGE, *(rng.randrange(size) for _ in range(30))})
    spans = list(pairwise(cuts))
    rng.shuffle(spans)
    memory = DirectFile.buffer(size)
    with DirectFile(path, memory) as file:
        for start, stop in spans:
            file.piece(start, stop - start)[:] = data[start:stop]
            middle = start + (stop - start) // 2 // PAGE * PAGE  # in two parts, as they are computed
            file.write(start, middle - start)
            file.write(middle, stop - middle)
    assert path.read_bytes() == data


def test_the_largest_piece_fits_wherever_it_lies(tmp_path: Path) -> None:
    memory = DirectFile.buffer(3 * PAGE)
    path = tmp_path / "file"
    path.write_bytes(bytes(5 * PAGE))
    with DirectFile(path, memory) as file:
        assert file.piece(PAGE - 1, 3 * PAGE).nbytes == 3 * PAGE


def test_where_direct_writing_is_refused_the_cache_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    pwrite = os.pwrite
    refused = []

    def some(handle: int, data: memoryview, position: int) -> int:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(position)
            raise OSError(errno.EINVAL, "not here")
        return pwrite(handle, data, position)

    monkeypatch.setattr(os, "pwrite", some)
    memory = DirectFile.buffer(1 << 20)
    with DirectFile(path, memory) as file:
        for _ in range(2):
            file.piece(0, 1 << 20)[:] = b"\7" * (1 << 20)
            file.write(0, 1 << 20)
    assert refused == [0]  # it is not tried again
    assert path.read_bytes() == b"\7" * (1 << 20)


def test_other_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))

    def full(handle: int, data: memoryview, position: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    memory = DirectFile.buffer(1 << 20)
    with DirectFile(path, memory) as file:
        file.piece(0, 1 << 20)
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="full"):
            file.write(0, 1 << 20)
