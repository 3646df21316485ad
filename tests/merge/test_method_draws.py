"""Random numbers that belong to a place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgeon.merge.draws import uniform


def test_any_part_is_that_of_the_whole() -> None:
    whole = np.random.Generator(np.random.Philox(key=np.array([11, 2], dtype=np.uint64))).random(4099)
    for start in (*range(9), 1000, 1001, 1002, 1003, 4090):
        for count in (1, 2, 3, 4, 5, 9):
            assert np.array_equal(uniform(11, 2, start, count).numpy(), whole[start : start + count]), (start, count)
    assert np.array_equal(uniform(11, 2, 0, 4099).numpy(), whole)


def test_tensors_and_models_draw_apart() -> None:
    one = uniform(5, 0, 0, 1000)
    assert not torch.equal(one, uniform(5, 1, 0, 1000)) and not torch.equal(one, uniform(6, 0, 0, 1000))
    assert torch.equal(one, uniform(5, 0, 0, 1000))
    assert one.dtype == torch.float64 and float(one.min()) >= 0 and float(one.max()) < 1


@pytest.mark.parametrize("start", [2**40 + 1, 2**62 + 3])
def test_far_into_a_tensor(start: int) -> None:
    assert torch.equal(uniform(2**63 - 1, 3, start, 50)[10:], uniform(2**63 - 1, 3, start + 10, 40))


def test_the_numbers_are_spread_evenly() -> None:
    drawn = uniform(1, 0, 3, 100_000)
    shares = torch.histc(drawn, 10, 0, 1) / len(drawn)
    assert float((shares - 0.1).abs().max()) < 0.005  # five standard deviations
