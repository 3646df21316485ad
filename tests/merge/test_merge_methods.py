"""Methods against mergekit on the same tensors, and by their own laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import merged, same_tensors, tensors, trained

from surgeon.errors import UsageError
from surgeon.ops.kernels.merge import merge

SHAPE = (37, 24)


def make(num: int, seed: int = 0, size: float = 0.05) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    return base, [torch.randn(SHAPE, generator=generator, dtype=torch.float64) * size for _ in range(num)]


def ours(method: str, base: torch.Tensor, deltas: list[torch.Tensor], weights: list[float], **options: Any) -> Any:
    return merge([base, *deltas], 0, method=method, weights=weights, options=options)


def theirs(method: str, base: torch.Tensor, deltas: list[torch.Tensor], weights: list[float], **options: Any) -> Any:
    from mergekit.merge_methods import merge_tensors

    parameters = {"weight": weights, **options}
    models = [base, *(base + delta for delta in deltas)]
    return merge_tensors(models, method, base_index=0, parameters=parameters)


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_task_arithmetic_is_mergekits(scale: float) -> None:
    base, deltas = make(3)
    weights = [0.7, 0.5, -0.3]
    found = ours("task_arithmetic", base, deltas, weights, scale=scale)
    expected = theirs("task_arithmetic", base, deltas, weights, **{"lambda": scale})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties_is_mergekits(density: float, normalize: bool) -> None:
    base, deltas = make(3)
    weights = [0.7, 0.5, 0.9]
    found = ours("ties", base, deltas, weights, density=density, normalize=normalize, scale=0.8)
    expected = theirs("ties", base, deltas, weights, density=density, normalize=normalize, **{"lambda": 0.8})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_ties_of_one_model_keeps_its_largest_changes() -> None:
    base, (delta,) = make(1)
    changed = ours("ties", base, [delta], [0.4], density=0.25) - base
    kept = changed != 0
    assert kept.sum() == int(0.25 * delta.numel())
    assert delta.abs()[kept].min() >= delta.abs()[~kept].max()
    torch.testing.assert_close(changed[kept], delta[kept], rtol=0, atol=1e-14)  # normalised: the weight drops out


def test_dare_keeps_its_share_and_is_right_on_average() -> None:
    base, (delta,) = make(1)
    draws = [
        merge([base, delta], seed, method="dare_linear", weights=[1.0], options={"density": 0.3}) - base
        for seed in range(400)
    ]
    share = torch.stack([(d != 0).double().mean() for d in draws]).mean()
    assert abs(share - 0.3) < 0.005
    kept = draws[0] != 0
    torch.testing.assert_close(draws[0][kept], delta[kept] / 0.3, rtol=0, atol=1e-13)
    error = (torch.stack(draws).mean(0) - delta).abs() / delta.abs()
    assert error.median() < 0.08  # its standard deviation is sqrt(0.7 / 0.3 / 400) = 0.076
    again = merge([base, delta], 7, method="dare_linear", weights=[1.0], options={"density": 0.3}) - base
    assert torch.equal(again, draws[7]) and not torch.equal(draws[7], draws[8])


def test_dare_of_density_one_is_task_arithmetic() -> None:
    base, deltas = make(2)
    dare = ours("dare_linear", base, deltas, [0.5, 0.2], density=1.0)
    assert torch.equal(dare, ours("task_arithmetic", base, deltas, [0.5, 0.2]))


def test_linear_is_mergekits() -> None:
    from mergekit.merge_methods import merge_tensors

    base, (delta,) = make(1)
    pair = [base, delta]
    found = merge(pair, 0, method="linear", weights=[0.3, 0.5])
    expected = merge_tensors(pair, "linear", parameters={"weight": [0.3, 0.5]})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.8, 1.0])
def test_slerp_is_mergekits(t: float) -> None:
    from mergekit.merge_methods import merge_tensors

    a, (b,) = make(1, size=1.0)
    found = merge([a, b], 0, method="slerp", weights=[1.0, 1.0], options={"t": t})
    expected = merge_tensors([a, b], "slerp", base_index=0, parameters={"t": t}, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_slerp_is_symmetric_keeps_the_norm_and_is_a_chord_for_near_models() -> None:
    a, (b,) = make(1, size=1.0)
    b = b / b.norm() * a.norm()

    def at(t: float, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return merge([x, y], 0, method="slerp", weights=[1.0, 1.0], options={"t": t})

    torch.testing.assert_close(at(0.3, a, b), at(0.7, b, a), rtol=0, atol=1e-12)
    assert at(0.3, a, b).norm().item() == pytest.approx(a.norm().item(), rel=1e-12)
    near = a + 1e-3 * b
    assert torch.equal(at(0.3, a, near), a * 0.7 + near * 0.3)


@pytest.mark.parametrize(
    ("method", "options"),
    [("ties", {"density": 0.0}), ("dare_linear", {"density": 1.5}), ("slerp", {"t": 2.0}), ("ties", {"rho": 1.0})],
)
def test_wrong_options_are_refused(method: str, options: dict[str, float]) -> None:
    base, deltas = make(1)
    with pytest.raises(UsageError):
        ours(method, base, deltas, [1.0] * (2 if method == "slerp" else 1), **options)


@pytest.mark.parametrize("method", ["ties", "dare_linear"])
def test_a_merge_by_method_is_deterministic_for_any_order_and_threads(
    stories: Path, tmp_path: Path, method: str
) -> None:
    from surgeon.merge.plan import MergeSettings, plan_merge
    from surgeon.ops.execute import execute

    first, second = trained(stories, tmp_path / "first", 1), trained(stories, tmp_path / "second", 2)
    one = merged(tmp_path / "one", stories, {first: 0.6, second: 0.9}, method=method, option={"density": 0.4})
    words = [f"{second}=0.9", f"{first}=0.6"]
    other = tmp_path / "other"
    settings = MergeSettings(base=str(stories), out=other, add=words, method=method, option={"density": "0.4"})
    execute(plan_merge(settings), other, threads=1)
    assert same_tensors(one, other)
    assert not same_tensors(one, stories)
    name = "model.layers.1.mlp.up_proj.weight"
    assert (tensors(one)[name] != tensors(stories)[name]).double().mean() < 0.8  # sparse: some elements stay
