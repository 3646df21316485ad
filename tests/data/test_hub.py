"""Datasets by name: what the datasets library reads, a refusal in three lines where it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from surgeon.data import hub
from surgeon.data.hub import HubDataset, parse_hub
from surgeon.data.source import corpus_digest, documents, parse_corpus
from surgeon.data.token_cache import read_tokens
from surgeon.data.tokens import tokenise
from surgeon.errors import SurgeonError, UsageError
from surgeon.loading import load_tokenizer

pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of two splits, and a cache of the library's own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "texts"
    place.mkdir()
    for split, texts in (("train", ["one", "two", "three"]), ("test", ["four"])):
        lines = [json.dumps({"text": text, "q": n}) + "\n" for n, text in enumerate(texts)]
        (place / f"{split}.jsonl").write_text("".join(lines))
    return place


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:org/data", (HubDataset("org/data"), None)),
        ("hf:org/data:en", (HubDataset("org/data", "en"), None)),
        ("hf:org/data:20231101.en@train", (HubDataset("org/data", "20231101.en", "train"), None)),
        ("hf:org/data:2023@train", (HubDataset("org/data", "2023", "train"), None)),
        ("hf:org/data@train[:10%]", (HubDataset("org/data", None, "train[:10%]"), None)),
        ("hf:org/data@train:0.5", (HubDataset("org/data", None, "train"), 0.5)),
    ],
)
def test_names(text: str, expected: tuple[HubDataset, float | None]) -> None:
    assert parse_hub(text) == expected
    corpus = parse_corpus(f"wiki={text}")
    assert (corpus.name, corpus.hub, corpus.weight) == ("wiki", *expected)
    assert parse_corpus(text).name == "data"


@pytest.mark.parametrize(
    "text", ["hf:", "hf:org/data:0.5", "hf:org/data:2023", "hf:org/data:en:0.5", "hf:a@b@c", "hf:a:"]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"no dataset's name|may be a configuration"):
        parse_corpus(text)


def test_rows_are_documents(folder: Path, stories: Path) -> None:
    corpus = parse_corpus(f"c=hf:{folder}@train")
    found = list(documents(corpus))
    assert [d.text for d in found] == ["one", "two", "three"]
    assert found[1].where == f"hf:{folder}@train: row 2"
    plain = parse_corpus(f"c={folder / 'train.jsonl'}")
    tokenizer: Any = load_tokenizer(stories)
    assert read_tokens(corpus, tokenizer).tokens.ids.tolist() == tokenise(plain, tokenizer).ids.tolist()
    part = parse_corpus(f"hf:{folder}@train[:2]")
    assert [d.text for d in documents(part)] == ["one", "two"]
    other = parse_corpus(f"hf:{folder}@test")
    assert len({corpus_digest(c) for c in (corpus, part, other)}) == 3
    assert corpus_digest(parse_corpus(f"d=hf:{folder}@train")) == corpus_digest(corpus)


def test_refusals_are_of_surgeon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SurgeonError, match="has the splits train, test") as several:
        list(documents(parse_corpus(f"hf:{folder}")))
    assert several.value.hint == f"choose one: hf:{folder}@train"
    with pytest.raises(SurgeonError, match="cannot be loaded"):
        list(documents(parse_corpus(f"hf:{folder}@valid")))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SurgeonError, match="the dataset org/absent-data cannot be loaded") as offline:
        list(documents(parse_corpus("x=hf:org/absent-data:en@train")))
    assert offline.value.where == "hf:org/absent-data:en@train"
    assert "offline" in offline.value.hint
    assert all("\n" not in line for line in (offline.value.problem, offline.value.where, offline.value.hint))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    hub._load.cache_clear()
    with pytest.raises(SurgeonError, match="needs datasets") as error:
        list(documents(parse_corpus("hf:org/data")))
    assert error.value.hint == "pip install 'surgeon[hf]'"
