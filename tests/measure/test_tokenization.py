"""Metrics of tokenizers against counts by hand, and the Renyi efficiency against its authors' tool."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgeon.data.source import Document
from surgeon.errors import SurgeonError
from surgeon.measure.tokenization import compare, renyi_efficiency, sentences, texts_of
from surgeon.vocab.tokenizer_json import TokenizerFile, unreachable

ALPHABET = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
LETTERS = sorted([*ALPHABET, *(chr(256 + i) for i in range(256 - len(ALPHABET)))])  # GPT-2's letters for bytes
SPACE = "Ġ"


def write(folder: Path, tokens: list[str], merges: list[tuple[str, str]]) -> TokenizerFile:
    """A byte-level BPE tokenizer with the 256 letters, `tokens` behind them, and `merges`."""
    folder.mkdir()
    vocab = {token: i for i, token in enumerate([*LETTERS, *tokens])}
    value: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                            "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": [list(m) for m in merges]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")
    return TokenizerFile.open(folder)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[TokenizerFile, TokenizerFile]:
    """`ab` is a token of both, `abc` and `xyz` are new; no merge makes `xyz`."""
    before = write(tmp_path / "before", ["ab"], [("a", "b")])
    after = write(tmp_path / "after", ["ab", "abc", "xyz"], [("a", "b"), ("ab", "c")])
    return before, after


def test_counts_by_hand(pair: tuple[TokenizerFile, TokenizerFile]) -> None:
    """`abc abd` is ab,c,_,ab,d before and abc,_,ab,d after; `dd. e` is d,d,.,_,e for both; `é` is two bytes."""
    found = compare(*pair, new_ids=[257, 258], texts=["abc abd", "dd. e", "é"])
    assert (found.documents, found.sentences, found.words, found.bytes) == (3, 4, 5, 7 + 5 + 2)
    assert (found.before.tokens, found.after.tokens) == (5 + 5 + 2, 4 + 5 + 2)
    assert found.before.tokens_per_word == 12 / 5 and found.after.tokens_per_word == 11 / 5
    assert found.before.tokens_per_byte == 12 / 14 and found.after.bytes_per_token == 14 / 11
    assert found.new_used == 1 / 2, "abc occurs, xyz does not"
    assert found.new_share == 1 / 11
    assert found.same_documents == 2 / 3
    assert found.same_sentences == 3 / 4, "the sentences are `abc abd`, `dd.`, `e` and `é`"
    assert found.before.round_trip == found.after.round_trip == 1
    assert unreachable(pair[1], ["abc", "xyz"]) == ["xyz"]


def test_entropy_by_hand(pair: tuple[TokenizerFile, TokenizerFile]) -> None:
    """`abab ab`: ab three times, a space once: H = log2((3/4)^2.5 + (1/4)^2.5) / (1 - 2.5) bits of log2 257."""
    found = compare(*pair, new_ids=[257, 258], texts=["abab ab"])
    entropy = math.log2(0.75**2.5 + 0.25**2.5) / -1.5
    assert found.before.renyi_efficiency == pytest.approx(entropy / math.log2(257), rel=1e-14)
    assert found.after.renyi_efficiency == pytest.approx(entropy / math.log2(259), rel=1e-14)


def test_efficiency_is_that_of_the_authors_tool() -> None:
    """Values of tokenization-scorer 1.1.8: score([["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["d"]], "renyi", power=2.5,
    vocab=V) for V = 4, 100."""
    counts = {0: 5, 1: 3, 2: 2, 3: 1}
    assert renyi_efficiency(counts, 4) == pytest.approx(GOLDEN_4, rel=1e-13)
    assert renyi_efficiency(counts, 100) == pytest.approx(GOLDEN_100, rel=1e-13)


GOLDEN_4, GOLDEN_100 = 0.7868200863552945, 0.23685644718386764


def test_efficiency_has_the_limits_of_the_definition() -> None:
    assert renyi_efficiency(dict.fromkeys(range(50), 7), 50) == pytest.approx(1, rel=1e-14), "uniform: all of it"
    assert renyi_efficiency({3: 9}, 50) == 0, "one token: nothing"
    assert renyi_efficiency({}, 50) is None and renyi_efficiency({0: 1}, 1) is None
    counts = Counter({i: 1000 // (i + 1) for i in range(200)})
    p = np.array(list(counts.values())) / counts.total()
    shannon = -(p * np.log(p)).sum() / np.log(200)
    near_one = renyi_efficiency(counts, 200, alpha=1 + 1e-7)
    assert near_one == pytest.approx(shannon, abs=1e-6), "Renyi's entropy goes to Shannon's as alpha goes to 1"
    two = renyi_efficiency(counts, 200, alpha=2)
    assert two == pytest.approx(-np.log((p**2).sum()) / np.log(200), rel=1e-13)


def test_order_of_texts_does_not_matter(pair: tuple[TokenizerFile, TokenizerFile]) -> None:
    texts = ["abc abd", "zq", "the cab", "abcabc. ab!"] * 40
    assert compare(*pair, new_ids=[257], texts=texts) == compare(*pair, new_ids=[257], texts=texts[::-1])


def test_a_text_that_does_not_come_back_counts(tmp_path: Path) -> None:
    before = write(tmp_path / "a", [], [])
    lossy = json.loads((tmp_path / "a" / "tokenizer.json").read_text())
    lossy["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps(lossy))
    found = compare(before, TokenizerFile.open(tmp_path / "b"), [], ["Aa", "bb", "cc", "Dd"])
    assert (found.before.round_trip, found.after.round_trip) == (1, 1 / 2)
    assert found.same_documents == 1 / 2 and found.new_used == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two? Three", ["One.", "Two?", "Three"]),
        ("a 3.5 b\n\nc", ["a 3.5 b", "c"]),
        ("यह एक है। वह दो।", ["यह एक है।", "वह दो।"]),
        ("これ。それ。", ["これ。", "それ。"]),
        ("\n \n", []),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_messages_are_texts_of_their_own() -> None:
    talk = Document("x", None, ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    assert list(texts_of([Document("y", "t"), talk])) == ["t", "a", "b"]


def test_texts_without_a_word_are_refused(pair: tuple[TokenizerFile, TokenizerFile]) -> None:
    with pytest.raises(SurgeonError, match="hold no word"):
        compare(*pair, new_ids=[], texts=[])
