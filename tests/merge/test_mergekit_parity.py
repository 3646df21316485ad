"""Every method that mergekit has too against mergekit's kernel, on random tensors in float64.

float64 to a relative 1e-12 (1e-14 where a sum cancels), and the same float32 or its neighbour. Sparsified ones
that mergekit computes in float32 (DARE, DELLA) are given our random choice and agree to the accuracy of float32.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_inputs import changes, ours, theirs, ulps, weights_for, without_base
from torch import Tensor

from surgeon.merge.draws import uniform
from surgeon.merge.methods.della import chances

SHAPES = [(37, 24), (6, 5, 7), (129,), (1, 40), (40, 1)]
SEEDS = range(3)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert ulps(found, expected) <= 1


# our method and options, mergekit's and its parameters
BASED: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("task_arithmetic", {}, "task_arithmetic", {}),
    ("task_arithmetic", {"scale": 0.6}, "task_arithmetic", {"lambda": 0.6}),
    ("residual", {"scale": -1.3}, "task_arithmetic", {"lambda": -1.3}),
    ("ties", {"density": 1.0}, "ties", {"density": 1.0}),
    ("ties", {"density": 0.5, "scale": 0.8}, "ties", {"density": 0.5, "lambda": 0.8}),
    ("ties", {"density": 0.05}, "ties", {"density": 0.05}),
    ("ties", {"density": 0.2, "normalize": False}, "ties", {"density": 0.2, "normalize": False}),
    ("breadcrumbs", {"density": 0.9}, "breadcrumbs", {"density": 0.9}),
    (
        "breadcrumbs",
        {"density": 0.33, "gamma": 0.21, "scale": 1.7},
        "breadcrumbs",
        {"density": 0.33, "gamma": 0.21, "lambda": 1.7},
    ),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.0}, "breadcrumbs", {"density": 0.5, "gamma": 0.0}),
    (
        "breadcrumbs_ties",
        {"density": 0.4, "gamma": 0.1, "scale": 0.5},
        "breadcrumbs_ties",
        {"density": 0.4, "gamma": 0.1, "lambda": 0.5},
    ),
    (
        "breadcrumbs_ties",
        {"density": 0.7, "normalize": True},
        "breadcrumbs_ties",
        {"density": 0.7, "normalize": True},
    ),
    ("model_stock", {}, "model_stock", {}),
    ("model_stock", {"filter_wise": True}, "model_stock", {"filter_wise": True}),
    ("sce", {}, "sce", {}),
    ("sce", {"select_topk": 0.5}, "sce", {"select_topk": 0.5}),
    ("sce", {"select_topk": 0.1}, "sce", {"select_topk": 0.1}),
]


@pytest.mark.parametrize("num", [2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("method", "options", "name", "parameters"), BASED)
def test_methods_with_a_base(
    method: str, options: dict[str, Any], name: str, parameters: dict[str, Any], shape: tuple[int, ...], num: int
) -> None:
    if method == "model_stock" and shape == (40, 1):
        options, parameters = {}, {}  # cosines of single numbers are 1 and -1: no estimate is left, up to rounding
    for seed in SEEDS:
        base, deltas = changes(num, shape, seed)
        weights = weights_for(method, num)
        if name not in ("model_stock", "sce"):
            parameters = {**parameters, "weight": weights}
        found = ours(method, base, deltas, weights, **options)
        close(found, theirs(name, base, deltas, **parameters))
        assert not torch.equal(found, base) or method in ("breadcrumbs", "breadcrumbs_ties", "sce", "model_stock")


NUSLERP = [
    ({}, {}),
    ({"flatten": False}, {"nuslerp_flatten": False}),
    ({"flatten": False, "row_wise": True}, {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("options", "parameters"), NUSLERP)
def test_nuslerp(options: dict[str, Any], parameters: dict[str, Any], shape: tuple[int, ...]) -> None:
    for seed in SEEDS:
        base, deltas = changes(2, shape, seed, size=0.5)
        weights = [0.3, 0.9]
        close(
            ours("nuslerp", base, deltas, weights, **options),
            theirs("nuslerp", base, deltas, weight=weights, **parameters),
        )
        models = [base, base + deltas[1]]
        close(
            without_base("nuslerp", models, weights, **options),
            theirs("nuslerp", None, models, weight=weights, **parameters),
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_linear(shape: tuple[int, ...], normalize: bool) -> None:
    for seed in SEEDS:
        first, others = changes(2, shape, seed, size=1.0)
        weights = [0.3, 0.5, -0.1]
        found = without_base("linear", [first, *others], weights, normalize=normalize)
        close(found, theirs("linear", None, [first, *others], weight=weights, normalize=normalize))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("t", [0.0, 0.25, 0.8, 1.0])
@pytest.mark.parametrize("size", [1.0, 1e-3], ids=["arc", "chord"])
def test_slerp(shape: tuple[int, ...], t: float, size: float) -> None:
    for seed in SEEDS:
        base, (delta,) = changes(1, shape, seed)
        other = base + delta / 0.05 * size
        close(without_base("slerp", [base, other], [1.0, 1.0], t=t), theirs("slerp", base, [other - base], t=t))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("size", "options"), [(1.0, {}), (0.05, {}), (1.0, {"max_iter": 1}), (1.0, {"tol": 1e-12, "max_iter": 60})]
)
def test_karcher(shape: tuple[int, ...], size: float, options: dict[str, Any]) -> None:
    for seed in SEEDS:
        base, deltas = changes(3, shape, seed, size=size)
        models = [base + delta for delta in deltas]
        found = without_base("karcher", models, [2.0] * 3, **options)
        close(found, theirs("karcher", None, models, **options))


class Given:
    """In place of torch.bernoulli: our choice, model after model; what it was asked for is kept."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.shape, self.seed = shape, seed
        self.asked: list[Tensor] = []

    def __call__(self, chance: Tensor) -> Tensor:
        drawn = uniform(self.seed, len(self.asked), 0, chance.numel()).reshape(chance.shape)
        self.asked.append(chance)
        return (drawn < chance.double()).to(chance.dtype)


RANDOM: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dare_linear", {"density": 0.3}, {"density": 0.3}),
    ("dare_linear", {"density": 0.6, "scale": 0.7}, {"density": 0.6, "lambda": 0.7}),
    ("dare_ties", {"density": 0.5}, {"density": 0.5}),
    ("dare_ties", {"density": 0.5, "normalize": True, "scale": 2.0}, {"density": 0.5, "normalize": True, "lambda": 2}),
    ("della", {"density": 0.5, "epsilon": 0.2}, {"density": 0.5, "epsilon": 0.2}),
    ("della", {"density": 0.3, "normalize": False}, {"density": 0.3, "normalize": False}),
    ("della_linear", {"density": 0.6, "epsilon": 0.1, "scale": 0.7}, {"density": 0.6, "epsilon": 0.1, "lambda": 0.7}),
]


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("shape", [(37, 24), (129,), (1, 40)], ids=str)
@pytest.mark.parametrize(("method", "options", "parameters"), RANDOM)
def test_random_ones_with_our_choice(
    method: str,
    options: dict[str, Any],
    parameters: dict[str, Any],
    shape: tuple[int, ...],
    rescale: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in SEEDS:
        base, deltas = changes(3, shape, seed)
        weights = [0.7, 0.5, 0.9]
        found = ours(method, base, deltas, weights, seed, rescale="l1" if rescale else "none", **options)
        given = Given(shape, seed)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "bernoulli", given)
            expected = theirs(method, base, deltas, weight=weights, rescale=rescale, **parameters)
        assert len(given.asked) == 3
        change, their_change = found - base, expected - base
        torch.testing.assert_close(change, their_change, rtol=1e-6, atol=1e-7)
        assert torch.equal(change == 0, their_change == 0)
        for delta, asked in zip(deltas, given.asked, strict=True):
            density, epsilon = options["density"], options.get("epsilon", 0.15)
            chance = chances(delta, density, epsilon) if method.startswith("della") else torch.full(shape, density)
            torch.testing.assert_close(asked.reshape(shape).double(), chance.double(), rtol=1e-6, atol=0)


def test_a_unit_in_the_last_place_is_seen() -> None:
    value = torch.tensor([1.0, -1e-30, 0.0])
    assert ulps(value, value) == 0
    assert ulps(value, torch.nextafter(value, torch.full_like(value, 2))) == 1
    assert (
        ulps(torch.tensor([-1e-45]), torch.tensor([1e-45])) == 2
        and ulps(torch.tensor([0.0]), torch.tensor([-0.0])) == 0
    )
