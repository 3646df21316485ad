"""Schedules at the points where the papers say what they are."""

from __future__ import annotations

import math

import pytest

from surgeon.errors import UsageError
from surgeon.registry import get, names


def at(name: str, step: int, total: int = 1000, **options: object) -> float:
    return get("schedule", name).call({"step": step, "total": total}, options)


def test_rewarm_cosine_at_its_corners() -> None:
    options = {"warmup": 0.1, "min_ratio": 0.1}
    assert at("rewarm_cosine", 0, **options) == 0
    assert at("rewarm_cosine", 50, **options) == 0.5
    assert at("rewarm_cosine", 100, **options) == 1
    assert at("rewarm_cosine", 550, **options) == pytest.approx(0.55)
    assert at("rewarm_cosine", 1000, **options) == pytest.approx(0.1)
    assert at("rewarm_cosine", 0, warmup=0) == 1  # no warm-up starts at the peak
    assert at("rewarm_cosine", 400, **options) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 3)))


def test_linear_constant_and_wsd_at_their_corners() -> None:
    assert [at("linear", s, warmup=0.1, min_ratio=0.2) for s in (0, 100, 550, 1000)] == pytest.approx([0, 1, 0.6, 0.2])
    assert [at("constant", s) for s in (0, 500, 1000)] == [1, 1, 1]
    assert at("constant", 5, warmup=10) == 0.5
    wsd = [at("wsd", s, warmup=10, decay=0.2, min_ratio=0.1) for s in (5, 10, 800, 850, 1000)]
    assert wsd == pytest.approx([0.5, 1, 1, 0.1 + 0.9 * 0.5, 0.1])
    assert at("wsd", 900, warmup=0, shape="linear") == pytest.approx(0.5)


@pytest.mark.parametrize("name", names("schedule"))
def test_every_schedule_stays_in_its_range(name: str) -> None:
    for total in (1, 2, 7, 100):
        assert all(0 <= at(name, step, total) <= 1 for step in range(1, total + 1))
        assert at(name, 1, total) > 0  # the first update of the shortest run moves something, or is a decay to zero


@pytest.mark.parametrize("name", names("schedule"))
@pytest.mark.parametrize("warmup", [1001, -0.1])
def test_a_warm_up_that_does_not_fit_is_refused(name: str, warmup: float) -> None:
    with pytest.raises(UsageError):
        at(name, 1, 1000, warmup=warmup)
