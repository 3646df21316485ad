"""Convex combinations: the arithmetic of the executor, the checks, the certificate's tables."""

from __future__ import annotations

import math

import pytest
import torch

from surgeon.errors import SurgeonError
from surgeon.ops.kernels.combine import combine
from surgeon.vocab.hull import Combination

ROWS = [[(3, 0.25), (0, 0.5)], [], [(7, 1.0)], [(1, 0.125), (2, 0.125), (3, 0.125), (4, 0.125)]]
MEANS = [0.25, 1.0, 0.0, 0.5]


def old(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3000, 5, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_kernel_and_rows_give_the_same_bytes_and_the_exact_sum(dtype: torch.dtype) -> None:
    mixture = Combination.of(ROWS, MEANS, [*range(10, 1500), *range(1600, 3000)])
    mixture.check(3000, "here")
    table = {name: t.clone() for name, t in mixture.tables("m").items()}
    rows = mixture.rows(old(dtype))
    assert rows.dtype == torch.float64
    assert torch.equal(rows, combine([old(dtype)], table, (4, 5), matrix="m"))
    assert torch.equal(rows, Combination.from_tables(table, "m").rows(old(dtype)))
    values = old(dtype).double()
    mean = [math.fsum([*values[10:1500, d].tolist(), *values[1600:, d].tolist()]) / 2890 for d in range(5)]
    for n, (row, share) in enumerate(zip(ROWS, MEANS, strict=True)):
        exact = [math.fsum([*(w * float(values[i, d]) for i, w in row), share * mean[d]]) for d in range(5)]
        assert torch.allclose(rows[n], torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-15)


def test_a_row_does_not_depend_on_the_others() -> None:
    one = Combination.of([ROWS[3]])
    many = Combination.of(ROWS[:1] * 1500 + [ROWS[3]])
    assert torch.equal(one.rows(old())[0], many.rows(old())[-1])
    joined = Combination.of(ROWS, MEANS, range(9)).then(Combination.of([[(0, 1.0)]]))
    assert torch.equal(joined.rows(old())[:4], Combination.of(ROWS, MEANS, range(9)).rows(old()))
    assert torch.equal(joined.rows(old())[4], old()[0].double())


def test_a_bias_is_mixed_as_rows_are() -> None:
    mixture = Combination.of([[(0, 0.5), (1, 0.5)]])
    assert mixture.rows(torch.tensor([1.0, 3.0])).tolist() == [2.0]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[(0, 0.5), (1, 0.4)]], "sum to 1 only"),
        ([[(0, 1.5), (1, -0.5)]], "negative"),
        ([[(0, float("nan"))]], "not finite"),
        ([[(12, 1.0)]], "outside"),
        ([[(0, 1 + 1e-11)]], "sum to 1 only"),
    ],
)
def test_what_is_not_convex_is_refused(rows: list[list[tuple[int, float]]], reason: str) -> None:
    with pytest.raises(SurgeonError, match=reason):
        Combination.of(rows).check(12, "init 'mine'")


def test_a_convex_row_never_beats_the_best_old_one() -> None:
    """l_new(h) <= max l_old(h) for every h, up to the rounding of the dot product."""
    mixture = Combination.of(ROWS, MEANS, range(3000))
    hidden = torch.randn(200, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    best = (hidden @ old().double().T).max(1).values
    assert bool((hidden @ mixture.rows(old()).T <= best[:, None] + 1e-12).all())
