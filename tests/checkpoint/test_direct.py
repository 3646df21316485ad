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
from surgeon.errors import SurgeonError


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


@pytest.mark.parametrize("shift", [0, PAGE, -PAGE, 1, 512])
def test_a_copy_is_the_source_s_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    """From and to odd places, over a hole, in pieces smaller than the whole."""
    monkeypatch.setattr(direct, "_LEAST", PAGE)
    size, at, end = 64 * PAGE, 2 * PAGE + 77, 61 * PAGE + 5
    data = bytearray(random.Random(1).randbytes(size))
    data[20 * PAGE : 40 * PAGE] = bytes(20 * PAGE)
    source, path = folder / "source", folder / "file"
    with source.open("wb") as file:
        file.write(data[: 20 * PAGE])
        file.seek(40 * PAGE)
        file.write(data[40 * PAGE :])
    path.write_bytes(b"")
    os.truncate(path, size + PAGE)
    with source.open("rb", buffering=0) as file, DirectFile(path, DirectFile.buffer(7 * PAGE)) as target:
        target.copy(file.fileno(), at, at + shift, end - at)
    expected = bytearray(size + PAGE)
    expected[at + shift : end + shift] = data[at:end]
    assert path.read_bytes() == expected


def source_and_target(folder: Path) -> tuple[Path, Path, bytes]:
    data = random.Random(2).randbytes(1 << 20)
    source, path = folder / "source", folder / "file"
    source.write_bytes(data)
    path.write_bytes(b"")
    os.truncate(path, len(data))
    return source, path, data


def test_what_lies_alike_within_a_page_is_not_read_by_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path, data = source_and_target(tmp_path)
    with source.open("rb", buffering=0) as file, DirectFile(path, DirectFile.buffer(1 << 18)) as target:
        if target._direct is None:
            pytest.skip("this file system has no direct writing")
        monkeypatch.setattr(os, "preadv", None)
        target.copy(file.fileno(), 0, 0, len(data))
    assert path.read_bytes() == data


def test_a_source_that_cannot_be_mapped_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path, data = source_and_target(tmp_path)

    def refused(*args: object, **more: object) -> None:
        raise OSError(errno.ENODEV, "no mappings")

    memory = DirectFile.buffer(1 << 18)
    monkeypatch.setattr("mmap.mmap", refused)
    with source.open("rb", buffering=0) as file, DirectFile(path, memory) as target:
        target.copy(file.fileno(), 0, 0, len(data))
    assert path.read_bytes() == data


def test_a_source_that_becomes_shorter_while_it_is_mapped_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path, data = source_and_target(tmp_path)
    put = DirectFile._put

    def cut(file: DirectFile, position: int, piece: memoryview) -> None:
        os.truncate(source, PAGE)
        put(file, position, piece)

    monkeypatch.setattr(DirectFile, "_put", cut)
    with (
        source.open("rb", buffering=0) as file,
        DirectFile(path, DirectFile.buffer(1 << 18)) as target,
        pytest.raises(SurgeonError, match="ends inside a tensor"),
    ):
        target.copy(file.fileno(), 0, 0, len(data))


def test_a_disk_that_is_full_is_said_of_a_copy_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path, data = source_and_target(tmp_path)

    def full(handle: int, data: memoryview, position: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with (
        source.open("rb", buffering=0) as file,
        DirectFile(path, DirectFile.buffer(1 << 18)) as target,
        pytest.raises(OSError, match="full"),
    ):
        target.copy(file.fileno(), 0, 0, len(data))
