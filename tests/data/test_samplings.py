"""How much each corpus gets: by size, by a power of it, or as even as a bound on epochs lets it be."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from surgeon.errors import UsageError
from surgeon.registry import get, names

SIZES = st.lists(st.integers(1, 10**12), min_size=1, max_size=24)


def parts(name: str, sizes: list[int], budget: float = 1.0, **options: float) -> list[float]:
    found: list[float] = get("sampling", name).call({"sizes": sizes, "budget": budget}, options)
    return found


def test_all_of_them() -> None:
    assert names("sampling") == ["proportional", "temperature", "unimax"]
    assert parts("proportional", [300, 100, 7]) == [300, 100, 7]


@given(SIZES, st.floats(0.05, 1))
@settings(max_examples=100, deadline=None)
def test_a_temperature_is_a_power_of_the_sizes(sizes: list[int], alpha: float) -> None:
    found = parts("temperature", sizes, alpha=alpha)
    for size, part in zip(sizes, found, strict=True):
        assert math.log(part / found[0]) == pytest.approx(alpha * math.log(size / sizes[0]), abs=1e-12, rel=1e-9)


def test_the_ends_of_a_temperature() -> None:
    assert parts("temperature", [10**9, 7], alpha=0) == [1, 1]
    found = parts("temperature", [400, 100, 8], alpha=1)
    assert [x / sum(found) for x in found] == pytest.approx([400 / 508, 100 / 508, 8 / 508], rel=1e-15)
    for alpha in (-0.1, 1.1):
        with pytest.raises(UsageError):
            parts("temperature", [1, 2], alpha=alpha)


@given(SIZES, st.integers(1, 8), st.fractions(Fraction(1, 1000), 1))
@settings(max_examples=200, deadline=None)
def test_unimax_is_the_water_level(sizes: list[int], epochs: int, filled: Fraction) -> None:
    """Against the definition, not the algorithm: there is one level that every corpus gets, or its most where that is
    less, and the parts add up to the budget."""
    budget = int(filled * epochs * sum(sizes))
    assume(budget > 0)
    found = parts("unimax", sizes, budget, max_epochs=epochs)
    assert math.fsum(found) == pytest.approx(budget, rel=1e-14)
    level = max(found)
    for size, part in zip(sizes, found, strict=True):
        assert part == pytest.approx(min(level, epochs * size), rel=1e-14)


@given(st.permutations(range(6)))
@settings(max_examples=30, deadline=None)
def test_unimax_does_not_ask_in_which_order_they_are_named(order: list[int]) -> None:
    sizes = [7, 7, 100, 3, 50_000, 900]
    plain = parts("unimax", sizes, 4000, max_epochs=2)
    assert parts("unimax", [sizes[i] for i in order], 4000, max_epochs=2) == [plain[i] for i in order]


def test_unimax_by_hand() -> None:
    """1,000 tokens, five times at most: 10 and 40 are held back to 50 and 200, the two others share 750."""
    assert parts("unimax", [10_000, 10, 400, 40], 1000) == [375, 50, 375, 200]
    assert parts("unimax", [100, 100], 1000) == [500, 500]  # all of it five times
    with pytest.raises(UsageError, match="more than 5 times") as refused:
        parts("unimax", [100, 100], 1001)
    assert refused.value.where == "--sampling unimax:max_epochs=5"


def test_unimax_as_it_was_used() -> None:
    """AfriqueLLM's table of 22,803,696,257 tokens: 16 of its 24 rows have 1,070,793,848. The eight below that level
    are here of one size, so that they have what its eight have together."""
    budget, level = 22_803_696_257, 1_070_793_848
    rest = budget - 16 * level
    sizes = [10**12] * 16 + [rest // 40] * 8  # 8 corpora, five times each
    found = parts("unimax", sizes, budget)
    assert all(abs(part - level) < 2 for part in found[:16])
