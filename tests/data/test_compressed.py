"""Corpora that are compressed: what comes out is what was put in, to the end, or a refusal."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from surgeon.data.compressed import kind_of, plain_kind
from surgeon.data.source import Corpus, documents, parse_corpus
from surgeon.errors import SurgeonError

Pack = Callable[[bytes], bytes]


def zstd(raw: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(raw)


def zstd_stream(raw: bytes) -> bytes:
    """Without the size of the content, as tools write what comes from a pipe."""
    packer = pytest.importorskip("zstandard").ZstdCompressor(write_content_size=False).compressobj()
    return packer.compress(raw) + packer.flush()


PACKS: dict[str, Pack] = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd, "GZ": gzip.compress,
}  # fmt: skip
TEXTS = [f"Line {n}: naïve café \u2028 {'x' * (n % 97)}" for n in range(3000)]
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS).encode()


def texts(path: Path, **how: bool) -> list[str | None]:
    return [d.text for d in documents(Corpus("c", path, **how))]


@pytest.mark.parametrize("suffix", PACKS)
def test_records_come_out_as_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"domain.v2.jsonl.{suffix}"
    path.write_bytes(PACKS[suffix](LINES))
    assert texts(path) == TEXTS
    assert texts(tmp_path) == TEXTS
    assert parse_corpus(str(path)).name == "domain.v2"


@pytest.mark.parametrize("suffix", PACKS)
def test_texts_come_out_as_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"domain.txt.{suffix}"
    path.write_bytes(PACKS[suffix](b"\xef\xbb\xbfone\r\ntwo\n"))
    assert texts(path) == ["one\ntwo\n"]
    assert texts(path, lines=True) == ["one", "two"]


@pytest.mark.parametrize(("suffix", "pack"), [*PACKS.items(), ("zst", zstd_stream)])
def test_streams_behind_each_other_are_read_to_the_end(tmp_path: Path, suffix: str, pack: Pack) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    third = len(LINES) // 3  # in the middle of a line
    path.write_bytes(b"".join(map(pack, (LINES[:third], LINES[third:], b""))))
    assert texts(path) == TEXTS


@pytest.mark.parametrize(("suffix", "pack"), [*PACKS.items(), ("zst", zstd_stream)])
def test_what_is_cut_off_or_damaged_is_refused(tmp_path: Path, suffix: str, pack: Pack) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    raw = pack(LINES)
    middle = len(raw) // 2
    for broken in (raw[:-9], raw[:middle], LINES):
        path.write_bytes(broken)
        with pytest.raises(SurgeonError, match="the file cannot be unpacked") as error:
            texts(path)
        assert error.value.where == str(path)
    path.write_bytes(raw[:middle] + bytes(99) + raw[middle + 99 :])
    with pytest.raises(SurgeonError, match=r"the file cannot be unpacked|is not valid"):  # a sum stands at the end
        texts(path)


@pytest.mark.parametrize(("suffix", "pack"), [*PACKS.items(), ("zst", zstd_stream)])
def test_what_follows_the_first_stream_is_read_or_refused(tmp_path: Path, suffix: str, pack: Pack) -> None:
    """A stream that is damaged at its start is not taken for the end."""
    path = tmp_path / f"a.jsonl.{suffix}"
    first, second = pack(LINES), pack(LINES[:50_000])
    for broken in (b"\xff" + second[1:], second[:3], b"remainder"):
        path.write_bytes(first + broken)
        with pytest.raises(SurgeonError, match="the file cannot be unpacked"):
            texts(path)


def test_padding_between_streams_of_xz_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.xz"
    third = len(LINES) // 3
    path.write_bytes(lzma.compress(LINES[:third]) + bytes(8) + lzma.compress(LINES[third:]) + bytes(4))
    assert texts(path) == TEXTS


@pytest.mark.parametrize("suffix", PACKS)
def test_a_file_without_a_byte_is_cut_off(tmp_path: Path, suffix: str) -> None:
    """Beside others in a folder too, where one that holds no document is allowed."""
    (tmp_path / "a.jsonl").write_bytes(LINES)
    path = tmp_path / f"b.jsonl.{suffix}"
    path.write_bytes(PACKS[suffix](b""))
    assert texts(tmp_path) == TEXTS
    path.write_bytes(b"")
    with pytest.raises(SurgeonError, match="the file cannot be unpacked: it is empty"):
        texts(tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("b.jsonl.gz.gz", "unpack it once"),
        ("b.jsonl.zstd", "compress it anew"),
        ("b.txt.ZIP", "compress it anew"),
        ("b.jsonl.Z", "compress it anew"),
    ],
)
def test_a_part_of_a_folder_that_is_packed_otherwise_is_not_left_out(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(SurgeonError, match=hint) as error:
        texts(tmp_path)
    assert error.value.where == str(tmp_path / name)


def test_an_archive_of_files_is_told_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(LINES))
    with pytest.raises(SurgeonError, match="unpack it, and give the folder"):
        texts(path)


def test_files_of_one_content_and_two_kinds_are_two_corpora_to_the_cache(tmp_path: Path) -> None:
    """.jsonl.gz and .txt.gz of the same bytes hold records, or a text."""
    names = [tmp_path / name for name in ("a.jsonl.gz", "a.b.TXT.GZ", "a.jsonl", "gz", "a.gz")]
    assert list(map(kind_of, names)) == [".jsonl.gz", ".txt.gz", ".jsonl", "", ".gz"]
    assert list(map(plain_kind, names)) == [".jsonl", ".txt", ".jsonl", "", ""]
