"""A reservoir is a uniform sample of what it has seen, the same however often it was stopped."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from surgeon.data import reservoir
from surgeon.data.reservoir import Reservoir
from surgeon.errors import UsageError


def filled(size: int, seed: int, count: int) -> Reservoir[int]:
    found: Reservoir[int] = Reservoir(size, seed)
    for item in range(count):
        found.offer(item)
    return found


@given(st.integers(1, 9), st.integers(0, 2**64 - 1), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_it_holds_different_items_of_the_stream_and_no_more_than_its_size(size: int, seed: int, count: int) -> None:
    held = filled(size, seed, count)
    assert len(held.items) == len({*held.items}) == min(size, count)
    assert held.seen == count and {*held.items} <= {*range(count)}


def test_every_item_is_held_with_the_same_probability() -> None:
    """40 places in the stream, 8 of them held, 500 seeds; inclusions within one sample exclude each other, which
    only narrows the statistic: its mean is 40 - 8 instead of 39."""
    counts = np.zeros(40)
    for seed in range(500):
        counts[filled(8, seed, 40).items] += 1
    assert counts.sum() == 8 * 500
    statistic = chisquare(counts).statistic
    assert statistic < 55, counts  # 95 % of 39 degrees of freedom
    assert statistic > 12, counts  # and not more even than chance


def test_an_item_is_accepted_with_size_over_seen() -> None:
    accepted = Counter[int]()
    for seed in range(1000):
        held: Reservoir[int] = Reservoir(3, seed)
        for item in range(30):
            accepted[item] += held.offer(item) is not None
    assert [accepted[item] for item in range(3)] == [1000] * 3
    expected = np.array([1000 * 3 / (item + 1) for item in range(3, 30)])
    found = np.array([accepted[item] for item in range(3, 30)])
    deviations = (found - expected) / np.sqrt(expected * (1 - expected / 1000))
    assert np.square(deviations).sum() < 40.1  # 95 % of 27 independent standard normals


def test_what_a_buffer_that_always_overwrites_holds_is_not_uniform() -> None:
    """The statistic can fail: a place for every item, as in the code beside the paper."""
    counts = np.zeros(40)
    for seed in range(500):
        random = np.random.default_rng(seed)
        held = list(range(8))
        for item in range(8, 40):
            held[random.integers(8)] = item
        counts[held] += 1
    assert chisquare(counts).statistic > 400


@pytest.mark.parametrize("stop", [0, 3, 4, 17, 200])
def test_a_state_is_plain_data_and_goes_on_as_if_nothing_had_happened(stop: int) -> None:
    held = filled(4, 7, stop)
    again: Reservoir[int] = Reservoir.of(json.loads(json.dumps(held.state())))
    for item in range(stop, 200):
        assert held.offer(item) == again.offer(item)
    assert again.state() == held.state() == filled(4, 7, 200).state()
    assert [again.draw(n) for n in range(20)] == [held.draw(n) for n in range(20)]


def test_a_state_is_not_moved_by_what_comes_after_it() -> None:
    held = filled(4, 7, 9)
    before = held.state()
    held.offer(9)
    held.items[0] = -1
    assert before == filled(4, 7, 9).state()


def test_draws_are_uniform_and_another_use_of_the_seed() -> None:
    held = filled(5, 0, 5)
    drawn = Counter(held.draw(number) for number in range(4000))
    assert chisquare([drawn[item] for item in range(5)]).pvalue > 0.05
    offered = [reservoir._below(1 << 32, 0, reservoir._OFFER, n) for n in range(50)]
    assert not {*offered} & {reservoir._below(1 << 32, 0, reservoir._DRAW, n) for n in range(50)}


def test_the_words_are_philox() -> None:
    """Philox4x64-10 of Random123's known answers: counter 0 and key 0 (numpy steps the counter before it reads)."""
    words = np.random.Philox(key=np.zeros(2, np.uint64), counter=np.full(4, 2**64 - 1, np.uint64))
    assert int(words.random_raw()) == 0x16554D9ECA36314C
    assert reservoir._below(2**64, 5, 1, 9) == int(
        np.random.Philox(key=np.array([5, 1], np.uint64), counter=np.array([0, 0, 9, 0], np.uint64)).random_raw()
    )


def test_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="holds nothing"):
        Reservoir(0, 0)
    with pytest.raises(UsageError, match="nothing was offered"):
        Reservoir(1, 0).draw(0)
