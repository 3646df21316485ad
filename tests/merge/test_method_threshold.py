"""The k largest in bounded memory against a stable sort of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from surgeon.merge import threshold
from surgeon.merge.threshold import Cut, cuts, kept

SIZE = 5000


def drawn(seed: int) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vectors() -> dict[str, Tensor]:
    coarse = [drawn(n).bfloat16() for n in (1, 2)]
    return {
        "normal": drawn(0),
        "bfloat16 differences": (coarse[0] * 4).round().double() - (coarse[1] * 4).round().double(),
        "zeros": torch.zeros(SIZE, dtype=torch.float64),
        "equal, of both signs": torch.where(drawn(3) > 0, 0.25, -0.25).double(),
        "mostly zeros": drawn(4) * (drawn(5) > 1.5),
        "wide": drawn(6) * 10.0 ** (drawn(7) * 60),  # subnormal numbers too
        "nearly equal": 1 + drawn(8) * 1e-15,
    }


def in_chunks(tensors: list[Tensor], step: int, runs: list[int]) -> Callable[[], Iterator[list[Tensor]]]:
    def chunks() -> Iterator[list[Tensor]]:
        runs.append(1)
        return ([t[start : start + step] for t in tensors] for start in range(0, SIZE, step))

    return chunks


def by_sorting(values: Tensor, k: int) -> Tensor:
    mask = torch.zeros(len(values), dtype=torch.bool)
    mask[torch.argsort(values.abs(), descending=True, stable=True)[:k]] = True
    return mask


@pytest.mark.parametrize("step", [SIZE, 700, 61])
@pytest.mark.parametrize(("few", "at_once"), [(1 << 20, 1 << 16), (1 << 20, 0), (40, 0), (0, 0)])
@pytest.mark.parametrize("k", [0, 1, 2, 1249, 4999, SIZE])
def test_the_set_is_that_of_a_stable_sort(
    k: int, few: int, at_once: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threshold, "FEW", few)
    monkeypatch.setattr(threshold, "AT_ONCE", at_once)
    tensors = list(vectors().values())
    found = cuts(in_chunks(tensors, step, []), SIZE, [[k]] * len(tensors))
    for name, values, (cut,) in zip(vectors(), tensors, found, strict=True):
        mask = torch.cat([kept(values[i : i + 777], cut, i) for i in range(0, SIZE, 777)])
        assert torch.equal(mask, by_sorting(values, k)), name


def test_two_edges_of_one_vector_and_the_passes_that_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    values, runs = drawn(0), list[int]()
    ((high, low),) = cuts(in_chunks([values], 100, runs), SIZE, [[50, 2000]])
    assert len(runs) == 1  # few enough to be looked at together
    monkeypatch.setattr(threshold, "AT_ONCE", 0)
    runs.clear()
    assert cuts(in_chunks([values], 100, runs), SIZE, [[50, 2000]]) == [[high, low]]
    assert len(runs) == 2  # one to count, one to collect
    assert torch.equal(kept(values, high, 0), by_sorting(values, 50))
    assert torch.equal(kept(values, low, 0), by_sorting(values, 2000))
    assert high.value > low.value


@pytest.mark.parametrize(("name", "passes"), [("zeros", 1), ("equal, of both signs", 1), ("bfloat16 differences", 2)])
def test_equal_magnitudes_are_settled_as_soon_as_they_are_alone(
    name: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threshold, "AT_ONCE", 0)
    monkeypatch.setattr(threshold, "FEW", 0)
    values, runs = vectors()[name], list[int]()
    ((cut,),) = cuts(in_chunks([values], 100, runs), SIZE, [[1700]])
    assert torch.equal(kept(values, cut, 0), by_sorting(values, 1700)) and len(runs) == passes


def test_no_pass_where_nothing_or_everything_is_kept() -> None:
    runs: list[int] = []
    assert cuts(in_chunks([drawn(0)], 100, runs), SIZE, [[0, SIZE, -3, SIZE + 1]])[0] == [
        Cut(float("inf"), -1), Cut(0.0, SIZE - 1), Cut(float("inf"), -1), Cut(0.0, SIZE - 1),
    ]  # fmt: skip
    assert not runs


def test_the_position_counts_within_the_whole_tensor() -> None:
    equal = torch.ones(10, dtype=torch.float64)
    cut = Cut(1.0, 6)
    assert kept(equal, cut, 0).tolist() == [True] * 7 + [False] * 3
    assert kept(equal[:4], cut, 5).tolist() == [True, True, False, False]
    assert not kept(equal, cut, 7).any() and kept(equal[:7].reshape(7, 1), cut, 0).shape == (7, 1)
