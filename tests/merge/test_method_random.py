"""DARE and DELLA by their laws: what they keep, what they are on average."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_inputs import changes, doubles, ours, same_bits

from surgeon.errors import UsageError
from surgeon.merge.draws import uniform
from surgeon.merge.methods.della import chances


def dropped(method: str, seed: int, **options: Any) -> torch.Tensor:
    """The change that one model makes at weight 1."""
    base, (delta,) = changes(1)
    return ours(method, torch.zeros_like(base), [delta], [1.0], seed, **options)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_the_mean_over_seeds_is_the_delta(method: str) -> None:
    _, (delta,) = changes(1)
    options = {"density": 0.5, "epsilon": 0.3} if method.startswith("della") else {"density": 0.3}
    draws = torch.stack([dropped(method, seed, **options) for seed in range(400)])
    chance = chances(delta, 0.5, 0.3) if method.startswith("della") else torch.full_like(delta, 0.3)
    deviation = ((1 - chance) / chance / 400).sqrt()  # of the mean, relative to the delta
    error = (draws.mean(0) - delta) / delta / deviation
    assert error.abs().max() < 5 and 0.8 < float(error.square().mean()) < 1.2
    kept = (draws != 0).double().mean(0)
    assert float(((kept - chance) / (chance * (1 - chance) / 400).sqrt()).abs().max()) < 5


def test_kept_changes_are_divided_by_their_probability() -> None:
    _, (delta,) = changes(1)
    found = dropped("dare_linear", 1, density=0.3)
    kept = uniform(1, 0, 0, delta.numel()).reshape(delta.shape) < 0.3
    torch.testing.assert_close(found, torch.where(kept, delta / 0.3, 0.0), rtol=1e-15, atol=0)
    chance = chances(delta, 0.5, 0.3)
    found = dropped("della_linear", 1, density=0.5, epsilon=0.3)
    torch.testing.assert_close(found, torch.where(found != 0, delta / chance, 0.0), rtol=1e-15, atol=0)
    plain = dropped("della_linear", 1, density=0.5, epsilon=0.3, rescale="none")
    assert torch.equal(plain, torch.where(found != 0, delta, 0.0))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_l1_keeps_the_norm(method: str) -> None:
    _, (delta,) = changes(1)
    found = dropped(method, 2, rescale="l1")
    assert float(found.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-12)
    assert float(dropped(method, 2, rescale="none").abs().sum()) < 0.8 * float(delta.abs().sum())


def test_della_keeps_large_changes_more_often_row_by_row() -> None:
    _, (delta,) = changes(1)
    delta[3] *= 100  # a row is ranked by itself
    chance = chances(delta, 0.5, 0.2)
    assert float(chance.min()) == 0.3 and float(chance.max()) == pytest.approx(0.7)
    torch.testing.assert_close(chance.mean(1), torch.full((37,), 0.5, dtype=torch.float64))
    for row, odds in zip(delta.abs(), chance, strict=True):
        assert torch.equal(row.argsort(), odds.argsort())
    vector = chances(delta[0], 0.5, 0.2)
    assert torch.equal(vector, chance[0])
    assert chances(delta[0, 0], 0.5, 0.2) == 0.5 and torch.equal(
        chances(delta[:, :1], 0.5, 0.2), torch.full((37, 1), 0.5).double()
    )
    tied = chances(doubles(2.0, 1.0, -2.0, 1.0), 0.5, 0.3)
    torch.testing.assert_close(tied, doubles(0.6, 0.2, 0.8, 0.4), rtol=1e-15, atol=0)


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_keeping_everything_is_task_arithmetic(method: str) -> None:
    base, deltas = changes(3)
    options = {"epsilon": 0.0} if method == "della_linear" else {}
    found = ours(method, base, deltas, [0.5, 0.2, -1.0], density=1.0, scale=0.9, **options)
    assert same_bits(found, ours("task_arithmetic", base, deltas, [0.5, 0.2, -1.0], scale=0.9))


def test_models_drop_apart_and_a_model_alone_as_it_does_first() -> None:
    base, (delta,) = changes(1)
    both = ours("dare_linear", torch.zeros_like(base), [delta, delta], [1.0, 10.0], density=0.5) / (delta / 0.5)
    assert {round(float(v)) for v in both.unique()} == {0, 1, 10, 11}
    alone = dropped("dare_linear", 0, density=0.5) / (delta / 0.5)
    assert torch.equal(both.round().remainder(10), alone.round())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((m, {"density": d}) for m in ("dare_linear", "dare_ties", "ties", "breadcrumbs") for d in (0.0, -0.1, 1.1)),
        ("della", {"density": 0.1}),
        ("della", {"density": 0.9, "epsilon": 0.2}),
        ("della_linear", {"epsilon": -0.1}),
        ("della_linear", {"density": 1.0}),
        ("breadcrumbs", {"gamma": -0.1}),
        ("breadcrumbs_ties", {"density": 0.8, "gamma": 0.3}),
        ("breadcrumbs", {"density": float("nan")}),
        ("sce", {"select_topk": 0.0}),
        ("sce", {"select_topk": 1.5}),
        ("dare_linear", {"rescale": "probability"}),
        ("della", {"rescale": "density"}),
        ("nuslerp", {"row_wise": True}),
        ("model_stock", {"scale": 0.5}),
    ],
)
def test_options_out_of_range_are_refused(method: str, options: dict[str, Any]) -> None:
    base, deltas = changes(2)
    with pytest.raises(UsageError):
        ours(method, base, deltas, [1.0, 1.0], **options)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "breadcrumbs_ties"])
def test_negative_weights_are_for_sums_only(method: str) -> None:
    base, deltas = changes(2)
    with pytest.raises(UsageError, match="negative"):
        ours(method, base, deltas, [1.0, -0.5], normalize=True)
    assert not torch.equal(ours(method, base, deltas, [1.0, -0.5], normalize=False), base)
