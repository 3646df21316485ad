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


def test_files_of_one_content_and_two_kinds_are_two_corpora_to_the_cache(tmp_path: Path) -> None:
    """.jsonl.gz and .txt.gz of the same bytes hold records, or a text."""
    names = [tmp_path / name for name in ("a.jsonl.gz", "a.b.TXT.GZ", "a.jsonl", "gz", "a.gz")]
    assert list(map(kind_of, names)) == [".jsonl.gz", ".txt.gz", ".jsonl", "", ".gz"]
    assert list(map(plain_kind, names)) == [".jsonl", ".txt", ".jsonl", "", ""]
