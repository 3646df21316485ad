"""One rounding from float64: against exact rational arithmetic, including where torch rounds twice."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.checkpoint.rounding import round_once


def nearest(value: float, dtype: torch.dtype) -> float:
    """The nearest value of `dtype` by comparing exact distances to its neighbours; ties to the even bit pattern."""
    start = torch.tensor(value, dtype=torch.float64).to(dtype)
    bits = start.view(torch.int16).item()
    candidates = [torch.tensor([bits + step], dtype=torch.int16).view(dtype) for step in (-1, 0, 1)]
    finite = [c for c in candidates if torch.isfinite(c).all()]
    best = min(
        finite, key=lambda c: (abs(Fraction(c.double().item()) - Fraction(value)), c.view(torch.int16).item() & 1)
    )
    return best.double().item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@settings(max_examples=300, deadline=None)
@given(value=st.floats(min_value=2.0**-10, max_value=2.0**10))
def test_nearest(dtype: torch.dtype, value: float) -> None:
    assert round_once(torch.tensor([value], dtype=torch.float64), dtype).double().item() == nearest(value, dtype)


def test_where_two_roundings_go_wrong() -> None:
    # just above the middle between 1 and 1 + 2^-7: by way of float32 it becomes the tie, and the tie goes to 1
    value = torch.tensor([1 + 2.0**-8 + 2.0**-40], dtype=torch.float64)
    assert value.to(torch.bfloat16).item() == 1.0
    assert round_once(value, torch.bfloat16).item() == 1 + 2.0**-7


def test_the_short_way_to_bfloat16_is_the_long_one() -> None:
    """Also around the middles of two values, where the float32 between has to be looked at."""
    from surgeon.checkpoint.rounding import _to_bfloat16, _to_odd_float32

    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200_000, generator=generator, dtype=torch.float64)
    near = values.to(torch.bfloat16).double()
    middles = near * (1 + 2.0**-8) + torch.randn(200_000, generator=generator, dtype=torch.float64) * 2.0**-45
    tiny = middles * 2.0**-120
    for held in (values, middles, tiny, -middles):
        assert torch.equal(_to_bfloat16(held), _to_odd_float32(held).to(torch.bfloat16))
    assert bool((middles.float().to(torch.bfloat16) != _to_bfloat16(middles)).any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_fits_comes_back(dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(torch.bfloat16 if dtype != torch.float16 else torch.float16).to(dtype)
    again = round_once(values.to(torch.float64), dtype)
    nan = torch.isnan(values)
    assert torch.equal(again[~nan], values[~nan]) and torch.isnan(again[nan]).all()


def test_overflow_and_kinds() -> None:
    huge = torch.tensor([1e300, -1e300, float("inf")], dtype=torch.float64)
    assert torch.equal(round_once(huge, torch.bfloat16).float(), torch.tensor([1, -1, 1]) * float("inf"))
    with pytest.raises(TypeError):
        round_once(torch.tensor([1.5]), torch.int64)
