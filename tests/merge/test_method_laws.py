"""Breadcrumbs, SCE, Model Stock, Karcher and NuSLERP by their own laws, and where they differ from mergekit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kernel_inputs import changes, doubles, ours, same_bits, theirs, without_base
from torch import Tensor

from surgeon.errors import UsageError


def test_breadcrumbs_keeps_what_is_neither_largest_nor_small() -> None:
    base, (delta,) = changes(1)
    found = ours("breadcrumbs", torch.zeros_like(base), [delta], [2.0], density=0.3, gamma=0.1)
    kept, size = found != 0, delta.numel()
    assert int(kept.sum()) == int(0.3 * size)
    assert torch.equal(found[kept], delta[kept] * 2)
    larger = delta.abs() > delta.abs()[kept].max()
    assert int(larger.sum()) == int(0.1 * size)
    assert float(delta.abs()[~kept & ~larger].max()) <= float(delta.abs()[kept].min())


def test_a_sign_is_elected_by_weight() -> None:
    base = torch.zeros(3, dtype=torch.float64)
    deltas = [doubles(1.0, 1.0, 0.0), doubles(-2.0, 2.0, -1.0), doubles(0.5, -0.25, 1.0)]
    for method, options in (
        ("ties", {"density": 1.0}),
        ("dare_ties", {"density": 1.0, "normalize": True}),
        ("della", {"density": 1.0, "epsilon": 0.0}),
        ("breadcrumbs_ties", {"density": 1.0, "gamma": 0.0, "normalize": True}),
    ):
        found = ours(method, base, deltas, [1.0, 0.5, 1.0], **options)
        # 1 - 1 + 0.5 > 0: the mean of 1 and 0.5; then 1 and 2 by their weights; then 1 alone
        torch.testing.assert_close(found, doubles(0.75, 4 / 3, 1.0), rtol=1e-15, atol=0)


def test_sce_weighs_by_energy_where_models_differ() -> None:
    base = torch.zeros(4, dtype=torch.float64)
    deltas = [doubles(3.0, 1.0, 1.0, 0.0), doubles(1.0, 1.0, -1.0, 0.0)]
    # variances 1, 0, 1, 0: of the two that vary one is kept, the first; energies 9 and 1
    found = ours("sce", base, deltas, [1.0, 1.0], select_topk=0.5)
    torch.testing.assert_close(found, doubles(0.9 * 3 + 0.1 * 1, 0, 0, 0), rtol=1e-15, atol=0)
    # all: energies 11 and 3; opposite changes of one size: the sum is 0, which counts as positive
    found = ours("sce", base, deltas, [1.0, 1.0])
    expected = doubles((11 * 3 + 3 * 1) / 14, 1.0, 1.0, 0.0)
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=0)


def test_sce_weighs_small_changes_too_and_mergekit_does_not() -> None:
    base, deltas = changes(2, size=1e-4)  # mean squares of 1e-8: usual for a fine-tuned model
    deltas[1] *= 2
    large = [delta * 1e4 for delta in deltas]
    zeros = torch.zeros_like(base)
    assert torch.allclose(ours("sce", zeros, deltas, [1.0, 1.0]) * 1e4, ours("sce", zeros, large, [1.0, 1.0]))
    torch.testing.assert_close(theirs("sce", zeros, large), ours("sce", zeros, large, [1.0, 1.0]), rtol=1e-12, atol=0)
    assert not torch.allclose(theirs("sce", zeros, deltas) * 1e4, theirs("sce", zeros, large))


@pytest.mark.parametrize("method", ["sce", "model_stock"])
def test_weights_have_no_place_there(method: str) -> None:
    base, deltas = changes(2)
    with pytest.raises(UsageError, match="weighs the models itself"):
        ours(method, base, deltas, [1.0, 0.5])
    with pytest.raises(UsageError, match="at least 2"):
        ours(method, base, deltas[:1], [1.0], **({"select_topk": 0.5} if method == "sce" else {}))


@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_of_equal_changes_is_the_change_and_of_orthogonal_ones_none(filter_wise: bool) -> None:
    base, (delta, *_) = changes(1)
    same = ours("model_stock", base, [delta, delta, delta], [1.0] * 3, filter_wise=filter_wise)
    torch.testing.assert_close(same, base + delta, rtol=1e-13, atol=1e-15)
    left, right = delta.clone(), delta.clone()
    left[:, ::2], right[:, 1::2] = 0, 0
    assert same_bits(ours("model_stock", base, [left, right], [1.0] * 2, filter_wise=filter_wise), base)


def test_model_stock_does_not_depend_on_the_length_of_changes() -> None:
    """mergekit's does: products of lengths below 1e-6 count as 1e-6."""
    base, deltas = changes(2, (64,), size=0.05)
    deltas[1] += deltas[0]
    small = [delta * 2.0**-20 for delta in deltas]
    zeros = torch.zeros_like(base)
    grown = ours("model_stock", zeros, small, [1.0] * 2) * 2.0**20
    assert same_bits(grown, ours("model_stock", zeros, deltas, [1.0] * 2))
    assert not torch.allclose(theirs("model_stock", zeros, small) * 2.0**20, grown)


@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_of_opposite_changes_is_the_base(filter_wise: bool) -> None:
    base, (delta,) = changes(1)
    assert same_bits(ours("model_stock", base, [delta, -delta], [1.0] * 2, filter_wise=filter_wise), base)


def angle(a: Tensor, b: Tensor) -> float:
    return math.acos(min(1.0, float((a * b).sum() / a.norm() / b.norm())))


def test_karcher_is_at_rest_under_all_pulls() -> None:
    """The weighted logarithms at the mean sum to zero, and its length is the mean length."""
    _, models = changes(3, size=1.0)
    models = [models[0], models[0] + models[1] * 2, models[2] + models[0]]
    weights = [0.5, 0.2, 1.3]
    found = without_base("karcher", models, weights, tol=1e-13, max_iter=200)
    mean = sum(w * float(m.norm()) for w, m in zip(weights, models, strict=True)) / 2
    assert float(found.norm()) == pytest.approx(mean, rel=1e-12)
    at = found / found.norm()
    pull = torch.zeros_like(at)
    for weight, model in zip(weights, models, strict=True):
        unit = model / model.norm()
        cosine = float((at * unit).sum())
        pull += weight * math.acos(cosine) / math.sqrt(1 - cosine**2) * (unit - cosine * at)
    assert float(pull.norm()) < 1e-11


def test_karcher_of_two_is_the_middle_of_the_arc() -> None:
    _, (a, b) = changes(2, size=1.0)
    b = b / b.norm() * a.norm()
    found = without_base("karcher", [a, b], [1.0, 1.0])
    torch.testing.assert_close(found, without_base("slerp", [a, b], [1.0, 1.0]), rtol=1e-10, atol=1e-12)
    quarter = without_base("karcher", [a, b], [3.0, 1.0], tol=1e-14, max_iter=300)
    torch.testing.assert_close(quarter, without_base("slerp", [a, b], [1.0, 1.0], t=0.25), rtol=1e-9, atol=1e-11)


def test_karcher_of_equal_and_opposite_models_and_of_zeros() -> None:
    _, (a, b) = changes(2, size=1.0)
    torch.testing.assert_close(without_base("karcher", [a, a, a], [1.0] * 3), a, rtol=1e-13, atol=0)
    zeros = torch.zeros_like(a)
    torch.testing.assert_close(without_base("karcher", [a, zeros], [1.0, 1.0]), a / 2, rtol=1e-13, atol=0)
    assert same_bits(without_base("karcher", [zeros, zeros], [1.0, 1.0]), zeros)
    torch.testing.assert_close(without_base("karcher", [a, a * -0.3], [1.0, 1.0]), a * 0.65, rtol=1e-13, atol=0)
    for wrong in ([1.0, -0.5], [0.0, 0.0]):
        with pytest.raises(UsageError, match="no shares"):
            without_base("karcher", [a, b], wrong)
    with pytest.raises(UsageError, match="max_iter"):
        without_base("karcher", [a, b], [1.0, 1.0], max_iter=0)


@pytest.mark.parametrize(
    ("options", "dim"), [({}, (0, 1)), ({"flatten": False}, 1), ({"flatten": False, "row_wise": True}, 0)]
)
def test_nuslerp_divides_angles_and_keeps_lengths(options: dict[str, Any], dim: Any) -> None:
    _, (a, b) = changes(2, size=1.0)
    b = b / b.norm(dim=dim, keepdim=True) * a.norm(dim=dim, keepdim=True)
    found = without_base("nuslerp", [a, b], [0.25, 0.75], **options)
    torch.testing.assert_close(found.norm(dim=dim), a.norm(dim=dim), rtol=1e-12, atol=0)
    cosines = [(x * y).sum(dim) / x.norm(dim=dim) / y.norm(dim=dim) for x, y in ((a, b), (a, found))]
    whole, part = (torch.acos(c) for c in cosines)
    torch.testing.assert_close(part, whole * 0.75, rtol=1e-9, atol=0)


def test_nuslerp_of_task_vectors_starts_at_the_base() -> None:
    base, deltas = changes(2)
    found = ours("nuslerp", base, deltas, [1.0, 3.0])
    torch.testing.assert_close(found - base, without_base("nuslerp", deltas, [1.0, 3.0]), rtol=0, atol=1e-15)
    assert same_bits(ours("nuslerp", base, deltas, [0.0, 2.0]), base + deltas[1])
    with pytest.raises(UsageError, match="between two"):
        ours("nuslerp", *changes(3), [1.0] * 3)
    with pytest.raises(UsageError, match="no share"):
        ours("nuslerp", base, deltas, [1.0, -1.0])


@pytest.mark.parametrize("options", [{}, {"flatten": False}, {"flatten": False, "row_wise": True}])
def test_nuslerp_with_nothing_and_on_a_line_is_linear(options: dict[str, Any]) -> None:
    _, (a,) = changes(1, size=1.0)
    zeros = torch.zeros_like(a)
    torch.testing.assert_close(
        without_base("nuslerp", [a, zeros], [3.0, 1.0], **options), a * 0.75, rtol=1e-15, atol=0
    )
    line = without_base("nuslerp", [a, a * 3], [1.0, 1.0], **options)
    torch.testing.assert_close(line, a * 2, rtol=1e-9, atol=0)


def test_residual_is_task_arithmetic_on_a_model_of_its_own() -> None:
    base, deltas = changes(2)
    onto = base + deltas[0]
    assert same_bits(ours("residual", onto, deltas[1:], [1.0]), onto + deltas[1])
    assert same_bits(
        ours("residual", onto, deltas, [0.3, 0.5], scale=0.9),
        ours("task_arithmetic", onto, deltas, [0.3, 0.5], scale=0.9),
    )


@pytest.mark.parametrize("method", ["task_arithmetic", "residual", "linear"])
def test_sums_are_those_of_any_ieee_arithmetic(method: str) -> None:
    """numpy, one operation at a time: a fused multiply-add would differ in the last bit here and there."""
    base, deltas = changes(3, (400, 50))
    weights = [0.7, 0.1, -1 / 3]
    if method == "linear":
        total = sum([0.5, *weights])
        expected = base.numpy() * (0.5 / total)
        for delta, weight in zip(deltas, weights, strict=True):
            expected = expected + delta.numpy() * (weight / total)
        found = without_base("linear", [base, *deltas], [0.5, *weights])
    else:
        expected = base.numpy()
        for delta, weight in zip(deltas, weights, strict=True):
            expected = expected + delta.numpy() * (0.9 * weight)
        found = ours(method, base, deltas, weights, scale=0.9)
    assert same_bits(found, torch.from_numpy(expected))
    fused = base.clone()
    for delta, weight in zip(deltas, weights, strict=True):
        fused.add_(delta, alpha=0.9 * weight)
    assert method == "linear" or not torch.equal(fused, found)
