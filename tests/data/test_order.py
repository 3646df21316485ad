"""A corpus in an order: kept through every way of packing, by a number in the records, with stable ties."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from surgeon.data import known_files, order, token_cache
from surgeon.data.order import Order, parse_order, ranking, scores
from surgeon.data.pack import Packed, Packing
from surgeon.data.source import Corpus
from surgeon.data.tokens import Tokens
from surgeon.errors import SurgeonError, UsageError

SCORES = [3, 1.5, 3, -2, 1.5, 7]


def corpus(path: Path, values: list[object]) -> Corpus:
    path.write_text("".join(json.dumps({"text": f"t{k}", "q": v}) + "\n" for k, v in enumerate(values)))
    return Corpus("c", path)


def test_what_is_an_order() -> None:
    assert parse_order("shuffled") == Order("shuffled")
    assert parse_order("sequential") == Order("sequential")
    assert parse_order("descending:a:b c") == Order("descending", "a:b c")
    for text in ("", "Shuffled", "ascending", "ascending:", "shuffled:q", "sequential:", "ascending: ", "random:q"):
        with pytest.raises(UsageError, match="is not an order"):
            parse_order(text)


def test_the_order_is_by_the_score_and_ties_stay(tmp_path: Path) -> None:
    held = corpus(tmp_path / "a.jsonl", list(SCORES))
    assert ranking(held, Order("shuffled"), 6) is None
    found = [ranking(held, Order(k, f), 6) for k, f in (("sequential", ""), ("ascending", "q"), ("descending", "q"))]  # type: ignore[arg-type]
    assert [f.tolist() for f in found if f is not None] == [[0, 1, 2, 3, 4, 5], [3, 1, 4, 0, 2, 5], [5, 0, 2, 1, 4, 3]]


def test_scores_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (known_files, token_cache, order):
        monkeypatch.setattr(module, "MIN_BYTES", 0)
    held = corpus(tmp_path / "a.jsonl", list(SCORES))
    assert scores(held, "q", len(SCORES)).tolist() == SCORES
    monkeypatch.setattr(order, "documents", lambda _: pytest.fail("the corpus was read"))
    assert scores(held, "q", len(SCORES)).tolist() == SCORES


@pytest.mark.parametrize("size", [0, 8, 400])
def test_broken_scores_of_the_cache_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (known_files, token_cache, order):
        monkeypatch.setattr(module, "MIN_BYTES", 0)
    held = corpus(tmp_path / "a.jsonl", list(SCORES))
    scores(held, "q", len(SCORES))
    (path,) = (tmp_path / "cache").rglob("scores.f64")
    path.write_bytes(b"\0" * size)
    with pytest.raises(SurgeonError, match="cached scores cannot be read") as error:
        scores(held, "q", len(SCORES))
    assert error.value.where == str(path.parent)
    path.unlink()
    with pytest.raises(SurgeonError, match="cached scores cannot be read"):
        scores(held, "q", len(SCORES))


def test_scores_of_another_number_of_documents_are_refused(tmp_path: Path) -> None:
    held = corpus(tmp_path / "a.jsonl", list(SCORES))
    with pytest.raises(SurgeonError, match="changed while it was read"):
        scores(held, "q", len(SCORES) - 1)


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("inf"), [1], 10**400, -(10**400)])
def test_a_record_without_a_number_is_refused(tmp_path: Path, value: object) -> None:
    held = corpus(tmp_path / "a.jsonl", [1, value])
    with pytest.raises(SurgeonError, match="no number in its field 'q'") as error:
        scores(held, "q", 2)
    assert error.value.where.endswith("a.jsonl:2")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(SurgeonError, match="a text without fields"):
        scores(Corpus("c", tmp_path / "a.txt"), "q", 1)


@pytest.mark.parametrize("packing", ["split", "concat", "whole"])
def test_the_order_holds_in_the_windows_of_every_epoch(packing: Packing) -> None:
    lengths = [5, 3, 9, 2, 4, 1]
    ids = np.repeat(np.arange(6), lengths).astype(np.int32)  # a token is the number of its document
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    tokens = Tokens("c", ids, np.ones(24, np.bool_), offsets, False, 24)
    wanted = np.array([3, 1, 4, 0, 2, 5])
    packed = Packed(tokens, 8, 0, 0, packing, wanted)
    count = 3 if packing != "whole" else round(24 / packed.tokens_per_window)
    for epoch in range(3):
        windows = [packed.window(epoch * count + k) for k in range(count)]
        seen = np.concatenate([w.ids[: w.num_tokens] for w in windows])
        assert seen.tolist() == np.repeat(wanted, np.array(lengths)[wanted]).tolist()
