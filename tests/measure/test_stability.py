"""Forgetting and the stability gap, on curves whose answers can be read off."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgeon.errors import SurgeonError
from surgeon.measure.stability import Stability, describe, forgetting, of_evaluations, stability

# binary fractions: differences are exact
DIP = [(0, 2.0), (10, 2.5), (20, 2.75), (30, 2.25), (40, 2.0), (50, 1.75)]


def test_a_dip_that_recovers() -> None:
    assert stability(DIP) == Stability(2.0, 1.75, -0.25, 0.75, dip_step=20, recovered_at=40)


def test_a_dip_that_does_not_recover() -> None:
    found = stability(DIP[:4])
    assert found == Stability(2.0, 2.25, 0.25, 0.75, dip_step=20, recovered_at=None)
    assert found.got_worse and not found.recovered


def test_a_corpus_that_is_learned_has_no_dip() -> None:
    found = stability([(0, 2.0), (5, 1.5), (10, 1.75)])
    assert found == Stability(2.0, 1.75, -0.25, 0.0, None, None)
    assert not found.got_worse and not found.recovered


def test_nothing_moved_nothing_was_lost() -> None:
    """With a learning rate of 0 the depth is 0 exactly."""
    assert stability([(0, 1.1), (5, 1.1), (9, 1.1)]) == Stability(1.1, 1.1, 0.0, 0.0, None, None)
    assert stability([(0, 1.1)]) == Stability(1.1, 1.1, 0.0, 0.0, None, None)


def test_the_first_of_equal_peaks_is_the_dip() -> None:
    assert stability([(0, 1.0), (1, 3.0), (2, 3.0), (3, 1.0)]).dip_step == 1


def test_a_recovery_before_the_dip_does_not_count() -> None:
    found = stability([(0, 2.0), (1, 2.5), (2, 1.5), (3, 4.0), (4, 3.0)])
    assert (found.dip_step, found.recovered_at) == (3, None)


def test_a_loss_that_was_infinite_at_its_worst() -> None:
    found = stability([(0, 2.0), (1, math.inf), (2, 2.0)])
    assert (found.depth, found.dip_step, found.recovered_at) == (math.inf, 1, 2)


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=30))
def test_laws(losses: list[float]) -> None:
    curve = list(enumerate(losses))
    found, moved = stability(curve), forgetting(curve)
    assert moved[0] == (0, 0.0)
    assert found.depth == max(change for _, change in moved)
    assert found.forgetting == moved[-1][1] <= found.depth
    assert found.got_worse == (found.depth > 0)
    if found.recovered_at is not None:
        assert found.dip_step is not None and found.recovered_at > found.dip_step
        between = [change for step, change in moved if found.dip_step <= step < found.recovered_at]
        assert min(between) > 0 >= dict(moved)[found.recovered_at]


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        ([], "without a point"),
        ([(0, 1.0), (2, 1.0), (2, 1.0)], "do not rise"),
        ([(0, 1.0), (1, math.nan)], "not a number"),
    ],
)
def test_refusals(curve: list[tuple[int, float]], said: str) -> None:
    with pytest.raises(SurgeonError, match=said):
        stability(curve)


def evaluation(step: int, name: str, bits: float | None, nats: float | None = 1.0) -> dict[str, Any]:
    return {"step": step, "name": name, "bits_per_byte": bits, "nats_per_token": nats}


def test_of_the_evaluations_of_a_run() -> None:
    points = [e for s, loss in DIP for e in (evaluation(s, "old", loss), evaluation(s, "new", 3.0 - s / 64))]
    old, new = of_evaluations([*points, evaluation(50, "once", 1.0)])
    assert old == {
        "name": "old", "unit": "bits per byte", "start": 2.0, "end": 1.75, "forgetting": -0.25, "depth": 0.75,
        "dip_step": 20, "recovered_at": 40,
    }  # fmt: skip
    assert new["depth"] == 0.0 and new["dip_step"] is None
    assert describe(old) == "at worst +0.7500 bits per byte, at step 20; back at step 40"
    assert describe(old | {"recovered_at": None}).endswith("; not recovered")
    assert describe(new) == "never above its start"


def test_a_corpus_without_a_number_says_nothing_and_the_others_do() -> None:
    points = [evaluation(0, "a", None, 1.0), evaluation(1, "a", None, 1.5), evaluation(0, "b", 1.0, 2.0)]
    a, b = of_evaluations([*points, evaluation(1, "b", 1.0, math.nan)])
    assert (a["unit"], a["depth"]) == ("nats per token", 0.5)
    assert b == {"name": "b", "unit": "nats per token"}
    assert "nothing" in describe(b)
    assert of_evaluations([]) == []


def test_a_corpus_without_an_evaluation_before_the_first_step_has_no_start() -> None:
    """A run that was broken off at step 6, where the corpus had already lost, and goes on with --eval."""
    late = [evaluation(6, "late", 2.19), evaluation(8, "late", 2.17)]
    early = [evaluation(0, "early", 2.0), evaluation(8, "early", 2.1)]
    a, b = of_evaluations([*early, *late])
    assert a["depth"] == pytest.approx(0.1) and a["dip_step"] == 8
    assert b == {"name": "late", "unit": "bits per byte", "since": 6}
    assert describe(b) == "not evaluated before step 6: what it lost since the start is not known"
