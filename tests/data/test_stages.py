"""Shares that change in the course of a run: strictly written, and kept to at every step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.data.stages import first_windows, parse_stages
from surgeon.data.turns import Turns
from surgeon.errors import UsageError

NAMES = ["general", "domain"]


def test_stages_are_read() -> None:
    assert parse_stages(["0.5:general=1,domain=3", "1:domain=0.5, general=0"], NAMES) == [(0.5, [1, 3]), (1, [0, 0.5])]
    assert first_windows([(0.5, [1]), (0.75, [1]), (1.0, [1])], 10) == [0, 5, 8]


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["general=1,domain=1"], "no end of a stage"),
        (["1.5:general=1,domain=1"], "no end of a stage"),
        (["0:general=1,domain=1"], "no end of a stage"),
        (["0.5:general=1,domain=1"], "the stages end at 0.5"),
        (["1:general=1,domain=1", "0.5:general=1,domain=1"], "the stages end at 1, 0.5"),
        (["1:general=1"], "'domain' has no weight"),
        (["1:general=1,domain=1,law=1"], "no corpus 'law'"),
        (["1:general=1,domain=1,general=2"], "two weights"),
        (["1:general=1,domain"], "is not NAME=WEIGHT"),
        (["1:general=1,domain=-1"], "is not NAME=WEIGHT"),
        (["1:general=1,domain=1,"], "is not NAME=WEIGHT"),
        (["1:general=0,domain=0"], "all weights of the stage are 0"),
        (["1:general=1,domain=0"], "no stage reads the corpus 'domain'"),
    ],
)
def test_everything_else_is_refused(texts: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse_stages(texts, NAMES)


def test_a_stage_without_a_window_is_refused() -> None:
    with pytest.raises(UsageError, match="a run of 4 windows has none for the stage to"):
        first_windows([(0.1, [1]), (1.0, [1])], 4)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_counts_are_within_one_of_the_target_at_every_turn(data: st.DataObject) -> None:
    """Tijdeman 1980, for shares that change: the deviation never exceeds 1 - 1/(2m - 2)."""
    count = data.draw(st.integers(2, 6))
    weights = st.lists(st.sampled_from([0, 0.01, 0.2, 1, 3.7]), min_size=count, max_size=count).filter(any)
    stages = [[w / sum(ws) for w in ws] for ws in data.draw(st.lists(weights, min_size=1, max_size=4))]
    starts = sorted(data.draw(st.sets(st.integers(1, 150), min_size=len(stages) - 1, max_size=len(stages) - 1)))
    turns, counts, due = Turns(stages[0], list(zip(starts, stages[1:], strict=True))), [0] * count, [0.0] * count
    for k in range(300):
        shares = stages[sum(start <= k for start in starts)]
        corpus, number = turns[k]
        assert shares[corpus] > 0 or due[corpus] > counts[corpus]  # what is not read now is at most still owed
        assert number == counts[corpus]
        counts[corpus] += 1
        due = [d + s for d, s in zip(due, shares, strict=True)]
        assert all(abs(c - d) <= 1 - 1 / (2 * count - 2) + 1e-6 for c, d in zip(counts, due, strict=True))
        assert [turns.target(i, k + 1) for i in range(count)] == pytest.approx(due)
    assert turns.counts(300) == counts
