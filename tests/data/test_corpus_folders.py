"""A folder is read as a whole: what is linked belongs to it, what is hidden does not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from surgeon.data.source import Corpus, documents
from surgeon.errors import SurgeonError


def write(path: Path, *texts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def texts(path: Path) -> list[str | None]:
    return [d.text for d in documents(Corpus("c", path))]


def test_a_linked_folder_belongs_to_the_corpus(tmp_path: Path) -> None:
    write(tmp_path / "texts" / "a.jsonl", "one")
    write(tmp_path / "elsewhere" / "deep" / "b.jsonl", "two")
    (tmp_path / "texts" / "part").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts" / "z.jsonl").symlink_to(tmp_path / "elsewhere" / "deep" / "b.jsonl")
    assert texts(tmp_path / "texts") == ["one", "two", "two"]


def test_hidden_files_are_as_hidden_as_for_the_datasets_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    for name in ("a.jsonl", "b/c.jsonl", ".a.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl", "b/.d/e.jsonl"):
        write(folder / name, name)
    (folder / "._a.jsonl").write_bytes(b"\x00\x05\x16\x07")  # what another system keeps beside a file
    assert texts(folder) == ["a.jsonl", "b/c.jsonl"]
    assert texts(folder) == list(datasets.load_dataset(str(folder), split="train")["text"])


def test_links_that_lead_nowhere_or_in_a_ring_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "texts" / "a.jsonl", "one")
    (tmp_path / "texts" / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(SurgeonError, match="leads nowhere") as error:
        texts(tmp_path / "texts")
    assert error.value.where.endswith("b.jsonl")
    (tmp_path / "texts" / "b.jsonl").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "texts" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "texts")
    with pytest.raises(SurgeonError, match="leads to itself"):
        texts(tmp_path / "texts")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("b.json.gz", "name it b.jsonl.gz"),
        ("deep/b.txt.lz4", "compress it anew as one of .gz, .bz2, .xz, .zst"),
        ("b.parquet.gz", "unpack it"),
    ],
)
def test_what_is_compressed_in_another_way_is_not_left_out_unsaid(tmp_path: Path, name: str, hint: str) -> None:
    write(tmp_path / "a.jsonl", "one")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(gzip.compress(b'{"text": "two"}\n'))
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(SurgeonError, match="is not read as a corpus") as error:
            texts(path)
        assert error.value.where.endswith(name) and hint in error.value.hint


def test_a_compressed_file_has_to_say_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "words.gz").write_bytes(gzip.compress(b"one"))
    with pytest.raises(SurgeonError, match="is not read as a corpus") as error:
        texts(tmp_path / "words.gz")
    assert "words.jsonl.gz" in error.value.hint


def test_other_files_beside_a_corpus_are_none_of_it(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "one")
    for name in ("README.md", "dataset_info.json", "notes.md.gz"):
        (tmp_path / name).write_bytes(b"{}")
    assert texts(tmp_path) == ["one"]
