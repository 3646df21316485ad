"""A text's lines end as Python and the datasets library read them, whatever system wrote the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgeon.data.source import Corpus, documents

TEXTS = [
    b"a\r\nb\r\n\r\nc",
    b"a\rb\r\rc\r",
    b"a\nb\r\nc\rd\n\n",
    b"\r\n\r\na\r\r\nb\n\r",
    "a\u2028b\x0bc\x0cd\x85e\x1c\r\nf".encode(),  # no ends of lines but the last, though str.splitlines takes them so
]


@pytest.mark.parametrize("raw", TEXTS)
def test_as_the_datasets_library_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.txt"
    path.write_bytes(raw)
    read = {
        by: list(datasets.load_dataset("text", data_files=str(path), sample_by=by, split="train")["text"])
        for by in ("line", "document")
    }
    assert [d.text for d in documents(Corpus("c", path))] == read["document"]
    lines = [d.text for d in documents(Corpus("c", path, lines=True))]
    assert lines == [line for line in read["line"] if line]  # a blank line separates


def test_the_text_of_a_record_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a\\r\\nb\\rc"}\r\n')
    assert [d.text for d in documents(Corpus("c", path))] == ["a\r\nb\rc"]
