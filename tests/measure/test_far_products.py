"""Norms and cosines of values whose squares float64 does not hold."""

from __future__ import annotations

import math

import pytest
import torch

from surgeon.measure.products import Products


def _found(a: torch.Tensor, b: torch.Tensor, pieces: int = 1) -> dict[str, float | None]:
    sums = Products(3)
    for x, y in zip(a.chunk(pieces), b.chunk(pieces), strict=True):
        one = Products(3)
        one.add(x, [x, y, y - x])
        sums.merge(one)
    return sums.difference()


@pytest.mark.parametrize("power", [-1000, -600, -500, -480, -300, 0, 255, 400, 511, 512, 700, 1018])
def test_a_power_of_two_changes_norms_by_it_alone(power: int) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randint(-9, 10, (60,), generator=generator).double() for _ in range(2))
    plain = _found(a, b, 3)
    found = _found(
        a * 2.0 ** (power // 2) * 2.0 ** (power - power // 2), b * 2.0 ** (power // 2) * 2.0 ** (power - power // 2), 3
    )
    assert found["norm"] == pytest.approx(math.ldexp(plain["norm"] or 0, power), rel=1e-14, abs=0)
    assert found["relative"] == pytest.approx(plain["relative"], rel=1e-14)
    assert found["cosine"] == pytest.approx(plain["cosine"], rel=1e-14)


def test_ordinary_values_are_summed_as_they_were() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(1000, dtype=torch.float64, generator=generator) for _ in range(2))
    found, d = _found(a, b), b - a
    assert found["norm"] == math.sqrt(torch.dot(d, d).item())
    ab, aa, bb = torch.dot(b, a).item(), torch.dot(a, a).item(), torch.dot(b, b).item()
    assert found["cosine"] == ab / math.sqrt(aa * bb)


def test_large_and_small_chunks_meet() -> None:
    a = torch.tensor([3e200, 4e200, 1.0, 2.0, 1e-200, 0.0], dtype=torch.float64)
    found = _found(a, torch.zeros(6, dtype=torch.float64), 3)
    assert found["norm"] == pytest.approx(5e200, rel=1e-14) and found["relative"] == 1.0 and found["cosine"] is None
    same = _found(a, a, 3)
    assert same["norm"] == 0 and same["cosine"] == pytest.approx(1)


def test_what_is_not_finite_has_no_norm() -> None:
    a = torch.tensor([1.0, math.inf], dtype=torch.float64)
    found = _found(a, torch.ones(2, dtype=torch.float64))
    assert not math.isfinite(found["norm"] or 0)
    over = torch.tensor([1.7e308], dtype=torch.float64)
    assert not math.isfinite(_found(over, -over)["norm"] or 0)


def test_an_orthogonal_pair_of_small_vectors() -> None:
    a, b = torch.tensor([1e-200, 0.0]).double(), torch.tensor([0.0, 1e-200]).double()
    a[0], b[1] = 1e-200, 1e-200  # float32 has none of these
    assert _found(a, b)["cosine"] == 0 and _found(a, b)["norm"] == pytest.approx(math.sqrt(2) * 1e-200)
