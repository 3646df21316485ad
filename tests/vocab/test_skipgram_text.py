"""What skip-gram reads of a text, against counting: pairs, noise, subsampling, the tokens it holds."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from surgeon.errors import SurgeonError
from surgeon.vocab.skipgram_text import Noise, Text, pairs
from surgeon.vocab.tokens import NewTokens


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def some_text(length: int) -> Text:
    draw = rng(1)
    weights = 1 / np.arange(1, 53)
    tokens = draw.permutation(52)[draw.choice(52, length, p=weights / weights.sum())]
    return Text.of(tokens, np.sort(draw.integers(0, 25, length)), tuple(range(40, 52)))


@pytest.mark.parametrize("batch", [8, 100, 4096])
def test_pairs_are_all_of_the_window_that_have_a_new_token(batch: int) -> None:
    text, window = some_text(700), 4
    is_new = text.rows >= 0
    found: Counter[tuple[int, int]] = Counter()
    positions = 0
    for count, centre, context in pairs(text.codes, text.documents, is_new, window, batch, rng()):
        assert len(centre) <= batch
        positions += count
        found.update(zip(centre.tolist(), context.tolist(), strict=True))
    expected: Counter[tuple[int, int]] = Counter()
    for i, a in enumerate(text.codes.tolist()):
        for j in range(max(0, i - window), min(len(text.codes), i + window + 1)):
            b = int(text.codes[j])
            if i != j and text.documents[i] == text.documents[j] and (is_new[a] or is_new[b]):
                expected[a, b] += 1
    assert found == expected
    assert positions == len(text.codes)


def test_noise_is_in_proportion_to_the_count_to_the_three_quarters() -> None:
    counts = np.array([1, 10, 100, 1000, 7])
    drawn = Noise(counts).draw((200_000,), rng())
    expected = counts**0.75 / (counts**0.75).sum() * 200_000
    assert chisquare(np.bincount(drawn, minlength=5), expected).pvalue > 0.01
    assert chisquare(np.bincount(drawn, minlength=5), counts / counts.sum() * 200_000).pvalue < 1e-9


def test_a_frequent_token_stays_with_the_square_root_of_the_threshold_over_its_frequency() -> None:
    tokens = np.repeat([0, 1, 2], [80_000, 19_900, 100])
    text = Text.of(tokens, np.zeros(len(tokens), dtype=np.int64), (2,))
    kept = np.bincount(text.subsampled(0.05, rng())[0], minlength=3)
    for count, stayed in zip((80_000, 19_900, 100), kept.tolist(), strict=True):
        chance = min(1.0, math.sqrt(0.05 / (count / 100_000)))
        assert abs(stayed - count * chance) <= 4 * math.sqrt(count * chance * (1 - chance))
    assert kept[2] == 100


def test_a_text_is_read_up_to_the_tokens_asked_for() -> None:
    new = NewTokens(("a", "b"), (7, 8), ((0,), (1,)), (0, 1), lambda: [[0, 8, 8], [], [1, 0, 8, 7], [7]])
    text = Text.read(new, "cw2v", 6, 7)
    assert text.ids[text.codes].tolist() == [0, 8, 8, 1, 0, 8]
    assert text.documents.tolist() == [0, 0, 0, 2, 2, 2]
    assert text.counts.tolist() == [2, 1, 3]
    assert text.rows.tolist() == [-1, -1, 0]
    assert text.held.tolist() == [1]
    assert Text.read(new, "cw2v", 100, 7).held.tolist() == [0, 1]


def test_a_text_without_new_tokens_or_with_unknown_ids_is_refused() -> None:
    for sequences, problem in (([[0, 1]], "none of the new tokens"), ([], "none"), ([[0, 6, 7]], "without a row")):
        new = NewTokens(("a",), (7,), ((0,),), (0, 1), lambda found=sequences: found)
        with pytest.raises(SurgeonError, match=problem):
            Text.read(new, "cw2v", 100, 5)
