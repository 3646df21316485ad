"""A growing batch: its sizes, and that a mixture gives the same windows in the same order, cut otherwise."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgeon.data.mixture import Mixture
from surgeon.data.pack import Packed
from surgeon.data.tokens import Tokens
from surgeon.errors import UsageError
from surgeon.train.batch_ramp import BatchRamp, parse_ramp

RAMP = BatchRamp(((1, Fraction(1, 10)), (2, Fraction(29, 100))), 4)


@st.composite
def ramps(draw: st.DrawFn) -> BatchRamp:
    count = draw(st.integers(0, 4))
    rows = sorted(draw(st.sets(st.integers(1, 40), min_size=count + 1, max_size=count + 1)))
    shares = st.fractions(Fraction(1, 100), Fraction(99, 100))
    ends = sorted(draw(st.sets(shares, min_size=count, max_size=count)))
    return BatchRamp(tuple(zip(rows, ends, strict=False)), rows[-1])


def test_rows_of_a_step() -> None:
    """Shares are exact: 0.29 of 100 is 29 steps, which 0.29 * 100 in float64 is not."""
    rows = [RAMP.rows_at(step, 100) for step in range(1, 101)]
    assert rows == [1] * 10 + [2] * 19 + [4] * 71
    assert RAMP.windows(100, 100) == 10 + 38 + 284


@given(ramp=ramps(), total=st.integers(1, 200))
def test_windows_are_the_sum_of_the_rows(ramp: BatchRamp, total: int) -> None:
    rows = [ramp.rows_at(step, total) for step in range(1, total + 1)]
    assert rows == sorted(rows) and rows[-1] == ramp.rows
    assert [ramp.windows(steps, total) for steps in range(total + 1)] == [sum(rows[:n]) for n in range(total + 1)]


@given(ramp=ramps(), windows=st.integers(1, 3000))
def test_steps_are_the_fewest(ramp: BatchRamp, windows: int) -> None:
    steps = ramp.steps(windows)
    assert ramp.windows(steps, steps) >= windows
    assert steps == 1 or ramp.windows(steps - 1, steps - 1) < windows


def test_no_ramp_is_the_plain_batch() -> None:
    plain = BatchRamp((), 4)
    assert [plain.windows(n, 9) for n in range(10)] == [4 * n for n in range(10)]
    assert [plain.steps(n) for n in (1, 4, 5, 8, 9)] == [1, 1, 2, 2, 3]


def test_ends_in_steps_do_not_move_with_the_run() -> None:
    ramp = BatchRamp(((1, Fraction(10)), (2, Fraction(30))), 4)
    for total in (30, 31, 1000):
        assert [ramp.rows_at(s, total) for s in (1, 10, 11, 30)] == [1, 1, 2, 2]
    assert ramp.steps(50) == 30 and ramp.steps(51) == 31
    with pytest.raises(UsageError, match="end at steps 10, 30 of 29"):
        ramp.steps(48)
    with pytest.raises(UsageError, match="of 29"):
        ramp.rows_at(1, 29)


def test_a_setting_is_read() -> None:
    assert parse_ramp("1k:0.1,2k:0.29", 512, 8) == BatchRamp(((1, Fraction(1, 10)), (3, Fraction(29, 100))), 8)
    assert parse_ramp("512:100", 512, 8) == BatchRamp(((1, Fraction(100)),), 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1k", "no stage"),
        ("1k:", "no stage"),
        (":0.1", "no stage"),
        ("", "no stage"),
        ("1k:a", "no stage"),
        ("1k:1/0", "no stage"),
        ("1k:0", "no place"),
        ("1k:-0.5", "no place"),
        ("1k:2.5", "no place"),
        ("100:0.1", "do not grow: 0, 8"),
        ("2k:0.1,1k:0.2", "do not grow: 3, 1, 8"),
        ("4096:0.1", "do not grow: 8, 8"),
    ],
)
def test_what_is_no_ramp_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_ramp(text, 512, 8)


def corpus() -> Tokens:
    ids = np.arange(1, 57, dtype=np.int32)
    return Tokens("c", ids, np.ones(56, np.bool_), np.array([0, 20, 51, 56]), False, 56)


def test_a_mixture_gives_the_same_windows_cut_otherwise() -> None:
    packed = [Packed(corpus(), 8, 0, stream, "split") for stream in range(2)]
    plain = Mixture(packed, [0.75, 0.25], 4)
    ramped = Mixture(packed, [0.75, 0.25], 4, first=lambda step: RAMP.windows(step, 30))
    late = [w.ids.tolist() for w in ramped.batch(29)]
    batches = [[w.ids.tolist() for w in ramped.batch(step)] for step in range(30)]
    assert [len(b) for b in batches] == [1] * 3 + [2] * 5 + [4] * 22 and batches[29] == late
    flat = [w for b in batches for w in b]
    assert flat == [w.ids.tolist() for step in range(26) for w in plain.batch(step)][: len(flat)]
    assert ramped.counts(30) == [sum(1 for k in range(len(flat)) if plain._turns[k][0] == c) for c in (0, 1)]


def test_a_mixture_goes_on_where_another_stopped() -> None:
    packed = [Packed(corpus(), 8, 0, stream, "split") for stream in range(2)]
    whole = Mixture(packed, [0.75, 0.25], 4)
    rest = Mixture(packed, [0.75, 0.25], 4, first=lambda step: (7 + step) * 4)
    for step in range(5):
        assert [w.ids.tolist() for w in rest.batch(step)] == [w.ids.tolist() for w in whole.batch(7 + step)]
    assert [a - b for a, b in zip(whole.counts(12), whole.counts(7), strict=True)] == rest.counts(5)
