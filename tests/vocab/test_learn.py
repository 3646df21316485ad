"""Continued merges on real tokenizers and texts: what is promised of the new tokens, and of everything old."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from vocab_material import ADD, CASES, documents, extended, lines

from surgeon.errors import SurgeonError
from surgeon.vocab.learn import learn
from surgeon.vocab.token_text import text_token, token_text
from surgeon.vocab.tokenizer_json import TokenizerFile, unreachable

pytestmark = pytest.mark.material


@pytest.mark.parametrize(("tokenizer", "target"), CASES)
def test_new_tokens_are_reached_and_old_ones_stay(material: Path, tokenizer: str, target: str) -> None:
    old, learned, files = extended(material, tokenizer, target)
    before, after = old.load(), files.file.load()
    first = old.next_id
    # exactly what was asked for, contiguous after the last id in use, each reached by merges alone
    assert len(learned.tokens) == len(set(learned.tokens)) == ADD
    assert [after.token_to_id(t) for t in learned.tokens] == list(range(first, first + ADD))
    assert unreachable(files.file, learned.tokens) == []
    # no id moved: specials included
    assert {i: after.id_to_token(i) for i in range(first)} == {i: before.id_to_token(i) for i in range(first)}
    assert after.get_vocab_size() == before.get_vocab_size() + ADD
    assert after.get_added_tokens_decoder().keys() == before.get_added_tokens_decoder().keys()
    # round trip wherever the original has it
    general = lines(material, "general_en")
    for text in (*general, *lines(material, target)):
        if before.decode(before.encode(text).ids) == text:
            assert after.decode(after.encode(text).ids) == text
    # the target text takes fewer tokens, and the new ones are used
    texts = documents(material, target)
    ids = [i for encoding in after.encode_batch(texts) for i in encoding.ids]
    assert len(ids) < 0.97 * sum(len(encoding.ids) for encoding in before.encode_batch(texts))
    assert len({i for i in ids if i >= first}) > ADD // 2
    # a text in which no new merge fits and no new character stands is encoded as before
    pairs, characters = set(learned.merges), {t for t in learned.tokens if len(t) == 1}
    words = sorted({word for text in general for word in text.split()})[:600]
    untouched = 0
    for word in words:
        pieces = before.encode(word).tokens
        if pairs.isdisjoint(pairwise(pieces)) and characters.isdisjoint(word):
            untouched += 1
            assert after.encode(word).ids == before.encode(word).ids
    assert untouched > len(words) // 10


def test_order_of_texts_and_hash_seeds_do_not_matter(material: Path) -> None:
    old, learned, _ = extended(material, "models/base", "ta")
    assert learn(old, reversed(documents(material, "ta")), ADD) == learned
    program = (
        "from vocab_material import extended; from pathlib import Path;"
        f"print(ascii(extended(Path({str(material)!r}), 'models/base', 'ta')[1]))"
    )
    root = Path(__file__).resolve().parents[2]
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": f"{root}:{root / 'tests' / 'vocab'}"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert elsewhere.strip() == ascii(learned)


def test_special_tokens_and_bytes_end_a_word(material: Path) -> None:
    old = TokenizerFile.open(material / "tokenizers" / "minimind-6400")
    learned = learn(old, ["zqxj<|im_end|>zqxj" * 50], 2)
    assert not any("<|" in token for token in learned.tokens)
    old = TokenizerFile.open(material / "models" / "base")
    learned = learn(old, ["zqxj\nzqxj\u200bzqxj\n" * 50], 3)
    assert not any("<0x" in token or "\n" in token for token in learned.tokens)


def test_digits_stay_single_where_the_old_vocabulary_keeps_them_so(material: Path) -> None:
    old = TokenizerFile.open(material / "tokenizers" / "mistral-v1")
    learned = learn(old, ["in 20257 zqxjvk 20257 (20257)." * 50], 3)
    assert not any(character.isdigit() for token in learned.tokens for character in token)


def test_characters_come_before_the_tokens_that_hold_them(material: Path) -> None:
    old, learned, _ = extended(material, "models/base", "ta")
    assert 0 < learned.num_characters < ADD
    known = set(old.vocab)
    for token in learned.tokens:
        assert len(token) == 1 or known.issuperset(token.replace("▁", ""))
        known.add(token)


def test_length_is_limited_without_losing_the_number(material: Path) -> None:
    old = TokenizerFile.open(material / "tokenizers" / "gpt2")
    learned = learn(old, documents(material, "medical_en"), 100, max_length=6)
    assert len(learned.tokens) == 100
    assert max(len(token_text(old, token)) for token in learned.tokens) <= 6
    assert unreachable(old.extended(learned.tokens, learned.merges), learned.tokens) == []


def test_a_corpus_too_small_says_how_many_it_supports(material: Path) -> None:
    old = TokenizerFile.open(material / "models" / "stories260K")
    texts = ["the haematologist saw the haematologist"]
    with pytest.raises(SurgeonError, match=r"supports \d+ new tokens, 500 were asked for") as refused:
        learn(old, texts, 500)
    supported = int(refused.value.hint.split()[2])
    assert len(learn(old, texts, supported).tokens) == supported
    with pytest.raises(SurgeonError, match="no text"):
        learn(old, [], 5)


def test_text_and_token_are_inverse(material: Path) -> None:
    for name in ("tokenizers/gpt2", "models/base"):
        old = TokenizerFile.open(material / name)
        for text in (" naïve", "தமிழ்", "a"):
            assert token_text(old, text_token(old, text)) == text
