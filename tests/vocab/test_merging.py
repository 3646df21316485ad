"""The trainer: equal to that of tokenizers where nothing is refused, and at every merge equal to encoding anew."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocab_material import documents

from surgeon.vocab.merging import Merging

WORDS = st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 9), min_size=1, max_size=12)
PICKS = st.lists(st.integers(0, 50), max_size=14)


def merging(words: dict[str, int], waiting: dict[str, int] | None = None, min_count: int = 1) -> Merging:
    letters = sorted({letter for word in words for letter in word})
    number = {letter: k for k, letter in enumerate(letters)}
    return Merging(
        np.array([number[letter] for word in words for letter in word], dtype=np.int32),
        np.array([len(word) for word in words], dtype=np.int64),
        np.array(list(words.values()), dtype=np.int64),
        letters,
        waiting={number[c]: gain for c, gain in (waiting or {}).items()},
        min_count=min_count,
    )


def state(found: Merging) -> list[list[str]]:
    """The pieces of each word, in the order of the words."""
    rows: list[list[str]] = []
    for place in np.flatnonzero(found._symbol >= 0):
        if found._last[place] < 0:
            rows.append([])
        rows[-1].append(found.texts[found._symbol[place]])
    return rows


def encoded(words: dict[str, int], letters: list[str], merges: list[tuple[str, str]]) -> list[list[str]]:
    from tokenizers.models import BPE

    texts = dict.fromkeys([*letters, *(left + right for left, right in merges)])
    model = BPE(vocab={text: i for i, text in enumerate(texts)}, merges=merges)
    return [[token.value for token in model.tokenize(word)] for word in words]


def splits(tokens: list[str], letters: list[str]) -> list[tuple[str, str]]:
    known = {*letters, *tokens}
    cuts = [(t[:i], t[i:]) for t in tokens for i in range(len(t) - 1, 0, -1)]
    return [(left, right) for left, right in cuts if left in known and right in known]


@pytest.mark.parametrize("by_pieces", [False, True])
@settings(deadline=None, max_examples=150)
@given(words=WORDS, picks=PICKS)
def test_words_counts_and_savings_are_those_of_encoding_anew(
    by_pieces: bool, words: dict[str, int], picks: list[int]
) -> None:
    """Any pair is merged, also one that the counts would not choose; with listed merges, and with all that spell a
    piece as SentencePiece does it (no second way of spelling a piece ever stands in a word)."""
    found = merging(words)
    letters = list(found.texts)
    merges: list[tuple[str, str]] = []
    size = sum(len(word) * count for word, count in words.items())
    for pick in picks:
        pairs = sorted(found._pairs)
        if not pairs:
            break
        left, right = divmod(pairs[pick % len(pairs)], 1 << 24)
        merges.append((found.texts[left], found.texts[right]))
        assert merges[-1][0] + merges[-1][1] not in found.texts
        size -= found.merge(left, right)
        pieces = encoded(words, letters, splits(found.texts[len(letters) :], letters) if by_pieces else merges)
        assert state(found) == pieces
        counts: Counter[tuple[str, str]] = Counter()
        for row, count in zip(pieces, words.values(), strict=True):
            for pair in pairwise(row):
                counts[pair] += count
        assert {(found.texts[k >> 24], found.texts[k & 0xFFFFFF]): n for k, n in found._pairs.items()} == counts
        assert size == sum(len(row) * n for row, n in zip(pieces, words.values(), strict=True))


@pytest.mark.material
@pytest.mark.parametrize(("text", "min_count"), [("medical_en", 2), ("ja", 3), ("code_py", 1)])
def test_merges_are_those_of_the_trainer_of_tokenizers(material: Path, text: str, min_count: int) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.trainers import BpeTrainer

    words = Counter(word for document in documents(material, text, 12) for word in document.split())
    found = merging(words, min_count=min_count)
    reference = Tokenizer(BPE())
    reference.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=len(found.texts) + 1500, min_frequency=min_count, special_tokens=[], show_progress=False
    )
    reference.train_from_iterator(words.elements(), trainer)
    merges = []
    while len(merges) < 1500 and (best := found.best()) is not None:
        assert best[0] is not None
        merges.append([found.texts[best[0]], found.texts[best[1]]])
        found.merge(best[0], best[1])
    assert merges == json.loads(reference.to_str())["model"]["merges"]
    assert len(merges) > 500


def test_a_refused_pair_is_counted_no_more_and_others_go_on() -> None:
    found = merging({"ab": 9, "xab": 5, "abx": 4})
    assert found.best() == (0, 1)
    found.refuse()
    assert found.best() == (2, 0)  # xa, which merging ab would have taken away
    assert found.merge(2, 0) == 5
    assert found.best() == (3, 1)


def test_a_character_is_chosen_by_what_it_saves_and_joins_from_then_on() -> None:
    found = merging({"aéé": 5, "ab": 9, "éa": 1}, {"é": 10})
    assert found.best() == (None, 2)
    assert found.choose() == 10
    assert found.best() == (0, 1)
    found.merge(0, 1)
    assert found.best() == (0, 2)
    found.refuse()
    assert found.best() == (2, 2)
    assert found.merge(2, 2) == 5
    assert merging({"éa": 3}, {"é": 0}).best() is None  # never
