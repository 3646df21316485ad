"""Counts that are kept at every so many turns: the same as those that are counted anew, and far fewer turns."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgeon.data import turns as module
from surgeon.data.turns import Turns
from surgeon.errors import SurgeonError

Stages = tuple[list[float], list[tuple[int, list[float]]], list[float]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The turns that are decided from now on."""
    found: list[int] = []
    plain = Turns.next

    def following(self: Turns, turn: int, stage: int, counts: list[int]) -> int:
        found.append(turn)
        return plain(self, turn, stage, counts)

    monkeypatch.setattr(Turns, "next", following)
    return found


@st.composite
def stages(draw: st.DrawFn) -> Stages:
    count = draw(st.integers(2, 6))
    weights = st.lists(st.floats(0.001, 1), min_size=count, max_size=count)
    shares = [[w / sum(ws) for w in ws] for ws in draw(st.lists(weights, min_size=1, max_size=3))]
    starts = sorted(draw(st.sets(st.integers(1, 400), min_size=len(shares) - 1, max_size=len(shares) - 1)))
    owed = [draw(st.floats(-0.3, 0.3)) for _ in range(count)]
    return shares[0], list(zip(starts, shares[1:], strict=True)), [o - sum(owed) / count for o in owed]


@given(held=stages(), size=st.integers(7, 90), order=st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_kept_counts_are_the_counts(
    held: Stages, size: int, order: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At any moment, asked for in any order, by the process that wrote them and by the next: those of one piece."""
    shares, later, owed = held
    whole, counts = Turns(shares, later, owed), [[0] * len(shares)]
    turns = [whole[k] for k in range(600)]
    for corpus, number in turns:
        assert number == counts[-1][corpus]
        counts.append([c + (i == corpus) for i, c in enumerate(counts[-1])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(module, "PIECE", size)
        for _ in range(2):
            asked = order.sample(range(600), 25)
            again = Turns(shares, later, owed)
            assert [again[k] for k in asked] == [turns[k] for k in asked]
            assert [again.counts(k) for k in asked] == [counts[k] for k in asked]


def test_a_run_that_goes_on_counts_a_piece_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 64)
    shares = [0.5, 0.3, 0.2]
    first = Turns(shares)
    turns = [first[k] for k in range(1000)]
    found = counted(monkeypatch)
    again = Turns(shares)
    assert again[999] == turns[999] and again.counts(1000) == first.counts(1000)
    assert found == list(range(961, 1001))


def test_short_runs_write_nothing(home: Path) -> None:
    turns = Turns([0.5, 0.5])
    assert turns.counts(1000) == [500, 500] and not list(home.iterdir())


def test_other_shares_have_other_counts(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(module, "PIECE", 8)
    assert Turns([0.5, 0.5]).counts(80) == [40, 40]
    assert Turns([0.25, 0.75]).counts(80) == [20, 60]
    assert len(list((home / "surgeon" / "turns").iterdir())) == 20


@pytest.mark.parametrize(
    ("values", "words"), [([9, 31], "not near their shares"), ([3, 4], "not near"), ([1, 2, 3], "of 3 corpora")]
)
def test_counts_that_cannot_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, home: Path, values: list[int], words: str
) -> None:
    monkeypatch.setattr(module, "PIECE", 8)
    Turns([0.5, 0.5]).counts(40)
    for path in (home / "surgeon" / "turns").iterdir():
        np.asarray(values, np.int64).tofile(path / "counts.i64")
    with pytest.raises(SurgeonError, match=words) as refused:
        Turns([0.5, 0.5]).counts(41)
    assert "remove this folder" in refused.value.hint and "turns" in refused.value.where
