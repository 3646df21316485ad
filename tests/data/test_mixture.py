"""The mixture keeps to its shares at every step, and a batch needs nothing but its number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.data.mixture import Mixture, shares
from surgeon.data.pack import Packed
from surgeon.data.tokens import Tokens
from surgeon.data.turns import Turns
from surgeon.errors import UsageError


def corpus_of(lengths: list[int]) -> Tokens:
    ids = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    return Tokens("c", ids, np.ones(len(ids), np.bool_), offsets, False, len(ids))


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=9))
@settings(max_examples=80, deadline=None)
def test_counts_are_within_one_of_their_share_at_every_turn(weights: list[float]) -> None:
    """Tijdeman 1980: the deviation never exceeds 1 - 1/(2m - 2)."""
    parts = [w / sum(weights) for w in weights]
    turns, counts = Turns(parts), [0] * len(parts)
    for k in range(400):
        corpus, number = turns[k]
        assert number == counts[corpus]
        counts[corpus] += 1
        assert all(abs(c - p * (k + 1)) < 1 for c, p in zip(counts, parts, strict=True))


def test_replay_takes_its_share_and_weights_share_the_rest() -> None:
    assert shares([300, 100, 7], [None, None, None], [False, False, True], 0.2) == pytest.approx([0.6, 0.2, 0.2])
    assert shares([300, 100], [1.0, 3.0], [False, False], 0.0) == [0.25, 0.75]
    with pytest.raises(UsageError, match="some corpora"):
        shares([3, 1], [1.0, None], [False, False], 0.0)
    with pytest.raises(UsageError, match="too large"):
        shares([3, 1], [1e308, 1e308], [False, False], 0.0)
    with pytest.raises(UsageError, match="not in"):
        shares([3, 1], [None, None], [False, True], 1.0)


def test_a_share_of_zero_is_never_drawn() -> None:
    turns = Turns([0.7, 0.3, 0.0])
    assert all(turns[k][0] != 2 for k in range(200))


def test_a_batch_is_a_function_of_the_step() -> None:
    packed = [Packed(corpus_of([20, 31, 5]), 8, 0, stream, "split") for stream in range(2)]
    one, two = (Mixture(packed, [0.75, 0.25], 4) for _ in range(2))
    late = [w.ids.tolist() for w in two.batch(11)]  # asked for first: no batch before it was made
    assert [w.ids.tolist() for w in one.batch(11)] == late
    for step in range(11):
        one.batch(step)
    assert [w.ids.tolist() for w in one.batch(11)] == late
    assert one.counts(12) == [36, 12]
