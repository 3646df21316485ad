"""Copies inside the kernel and by way of this process give the same bytes; holes stay holes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from surgeon.checkpoint import direct
from surgeon.checkpoint.copy_file import copy_range, shares_data
from surgeon.checkpoint.direct import DirectFile
from surgeon.errors import SurgeonError

SIZE = 3 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Data, a hole of a megabyte and more, data."""
    raw = os.urandom(300_000)
    with (tmp_path / "source").open("wb") as file:
        file.write(raw)
        file.seek(SIZE - 200_000)
        file.write(raw[:200_000])
    return tmp_path / "source"


def copied(source: Path, start: int, position: int, count: int) -> Path:
    target = source.with_name("target")
    target.unlink(missing_ok=True)
    with source.open("rb", buffering=0) as old, target.open("w+b", buffering=0) as new:
        os.ftruncate(new.fileno(), position + count)
        copy_range(old.fileno(), new.fileno(), start, position, count)
    return target


@pytest.mark.parametrize("start", [0, 8, 5000])
@pytest.mark.parametrize("position", [0, 8, 904, 4096 + 904])
def test_past_the_page_cache_too(source: Path, monkeypatch: pytest.MonkeyPatch, start: int, position: int) -> None:
    monkeypatch.setattr(direct, "_LEAST", 1 << 14)
    count = SIZE - start - 3
    target = source.with_name("target")
    target.write_bytes(b"")
    os.truncate(target, position + count)
    with source.open("rb", buffering=0) as old, DirectFile(target, DirectFile.buffer(1 << 16)) as new:
        new.copy(old.fileno(), start, position, count)
    raw = target.read_bytes()
    assert raw[:position] == bytes(position) and raw[position:] == source.read_bytes()[start : start + count]
    if source.stat().st_blocks * 512 < 1_000_000:
        assert target.stat().st_blocks * 512 < 1_000_000  # the hole stays one
    os.truncate(source, 1000)
    with (
        source.open("rb", buffering=0) as old,
        DirectFile(target, DirectFile.buffer(1 << 16)) as new,
        pytest.raises(SurgeonError, match="ends inside"),
    ):
        new.copy(old.fileno(), start, position, count)


def test_data_is_shared_only_where_it_can_be(source: Path) -> None:
    """Whichever file system this is: where it says yes, the first whole page is there."""
    target = source.with_name("target")
    target.write_bytes(bytes(SIZE))
    with source.open("rb", buffering=0) as old, target.open("r+b", buffering=0) as new:
        assert not shares_data(old.fileno(), new.fileno(), 0, 904, 100_000)  # pages do not meet
        assert not shares_data(old.fileno(), new.fileno(), 904, 904, 4096)  # no whole page
        shared = shares_data(old.fileno(), new.fileno(), 904, 904 + 4096, 100_000)
    expected = source.read_bytes()[4096:8192] if shared else bytes(4096)
    assert target.read_bytes() == bytes(8192) + expected + bytes(SIZE - 8192 - 4096)


@pytest.mark.parametrize("start", [0, 8, 5000])
@pytest.mark.parametrize("position", [0, 8, 904, 4096 + 904])
@pytest.mark.parametrize("fails", [None, errno.EXDEV, errno.ENOSYS])
def test_the_same_bytes_from_any_place_to_any_other(
    source: Path, monkeypatch: pytest.MonkeyPatch, start: int, position: int, fails: int | None
) -> None:
    def refused(*_: object) -> int:
        raise OSError(fails, "not here")

    if fails is not None:
        monkeypatch.setattr(os, "copy_file_range", refused)
    count = SIZE - start - 3
    raw = copied(source, start, position, count).read_bytes()
    assert raw[:position] == bytes(position) and raw[position:] == source.read_bytes()[start : start + count]


def test_a_hole_takes_no_space(source: Path) -> None:
    if source.stat().st_blocks * 512 > 1_000_000:
        pytest.skip("this file system keeps no holes")
    assert copied(source, 0, 0, SIZE).stat().st_blocks * 512 < 1_000_000


def test_whole_pages_are_asked_for_where_both_places_lie_alike(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    copy = os.copy_file_range

    def seen(old: int, new: int, count: int, start: int, position: int) -> int:
        asked.append((start, position))
        return copy(old, new, count, start, position)

    monkeypatch.setattr(os, "copy_file_range", seen)
    copied(source, 904, 904 + 8192, 200_000)
    assert asked[:2] == [(904, 904 + 8192), (4096, 4096 + 8192)]


def test_a_file_that_has_become_shorter_is_refused(source: Path) -> None:
    with pytest.raises(SurgeonError, match="ends inside"):
        copied(source, 100, 0, SIZE)
