"""Steps inside a step: the identities that the method rests on, and what a run makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from test_meta_reptile import loop_of
from torch import Tensor, nn

from surgeon.errors import SurgeonError, UsageError
from surgeon.train.hook import Run
from surgeon.train.meta.nexus import nexus
from surgeon.train.parallel import SOLO
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

Tiny = Callable[..., Path]
SIZE = 5


def quadratic(seed: int) -> tuple[Tensor, Tensor]:
    """A and c of 1/2 (theta - c) A (theta - c)."""
    drawn = torch.Generator().manual_seed(seed)
    root = torch.randn(SIZE, SIZE, generator=drawn, dtype=torch.float64)
    return root @ root.T, torch.randn(SIZE, generator=drawn, dtype=torch.float64)


def pseudo_gradient(losses: Sequence[tuple[Tensor, Tensor]], theta: Tensor, **options: Any) -> Tensor:
    """What the outer optimizer is given after a micro-batch of each loss; theta is as it was."""
    parameter = nn.Parameter(theta.clone())
    run = SimpleNamespace(parameters={"theta": parameter}, rows={}, device=torch.device("cpu"), world=SOLO)
    hook = nexus(cast(Run, run), **options)
    hook.before_step(1)
    for matrix, centre in losses:
        away = parameter - centre
        (0.5 * away @ matrix @ away).backward()
        hook.after_micro_batch(1)
    hook.after_backward(1)
    assert torch.equal(parameter, theta)
    assert parameter.grad is not None
    return parameter.grad


def test_averaged_over_the_order_it_rewards_the_inner_product_of_the_gradients() -> None:
    one, two = quadratic(0), quadratic(1)
    theta, gamma = torch.randn(SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64), 0.03
    both = [pseudo_gradient(pair, theta, inner_lr=gamma, normalize=False) for pair in ([one, two], [two, one])]
    wanted = theta.clone().requires_grad_()
    gradients = [matrix @ (wanted - centre) for matrix, centre in (one, two)]
    (agreement,) = torch.autograd.grad(gradients[0] @ gradients[1], wanted)
    expected = (gradients[0] + gradients[1] - gamma / 2 * agreement).detach()
    assert float(((both[0] + both[1]) / 2 - expected).abs().max()) < 1e-12 * float(expected.abs().max()) / gamma


def test_one_step_along_the_gradient_is_the_gradient() -> None:
    theta = torch.ones(SIZE, dtype=torch.float64)
    matrix, centre = quadratic(3)
    found = pseudo_gradient([(matrix, centre)], theta, inner_lr=0.5, normalize=False)
    assert torch.allclose(found, matrix @ (theta - centre), rtol=1e-13, atol=1e-13)
    direction = pseudo_gradient([(matrix, centre)], theta, inner_lr=0.5)
    assert torch.allclose(direction, found / found.norm(), rtol=1e-13, atol=1e-13)


def test_small_steps_are_gradient_accumulation() -> None:
    theta, losses = torch.zeros(SIZE, dtype=torch.float64), [quadratic(n) for n in range(4)]
    total = sum((matrix @ (theta - centre) for matrix, centre in losses), torch.zeros(SIZE, dtype=torch.float64))
    errors = [
        float((pseudo_gradient(losses, theta, inner_lr=gamma, normalize=False) - total).norm())
        for gamma in (1e-3, 1e-4, 1e-5)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3 * float(total.norm())
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.05)  # of first order in gamma


@pytest.mark.parametrize(("micro_batch", "count"), [(4, 1), (1, 4)])
def test_in_a_run(tiny: Tiny, corpus: Path, micro_batch: int, count: int) -> None:
    loop = loop_of(tiny("llama"), corpus, meta=["nexus:inner_lr=0.02"], micro_batch=micro_batch)
    done = loop._step(1, loop.windows(0))
    (found,) = (v for k, v in done.extra.items() if k == "nexus_agreement")
    if count == 1:
        assert found == pytest.approx(1, rel=1e-3)
    else:
        assert 1 / count < found < 1
    # a sum of `count` directions that agree as much as that
    assert float(done.norm) == pytest.approx(found * count, rel=1e-5)


@pytest.mark.parametrize("rate", ["-1", "nan", "inf"])
def test_an_inner_rate_that_is_no_length_is_refused(tiny: Tiny, corpus: Path, rate: str) -> None:
    with pytest.raises(UsageError, match="inner_lr"):
        loop_of(tiny("llama"), corpus, meta=[f"nexus:inner_lr={rate}"])


def test_a_run_does_not_go_on_with_other_micro_batches(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    """They are its small steps; elsewhere they are a matter of rounding."""
    options: dict[str, Any] = {
        "model": str(tiny("llama")), "data": [str(corpus)], "tokens": 256, "seq_len": 16, "batch_tokens": 64,
        "micro_batch": 2, "meta": ["nexus:inner_lr=0.02"], "device": "cpu",
    }  # fmt: skip
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_state=True))
    (tmp_path / "one.run").rename(tmp_path / "two.run")
    with pytest.raises(SurgeonError, match=r"this changed: micro_batch \(2 -> 1\)"):
        run_cpt(CptSettings(**options | {"micro_batch": 1}, out=str(tmp_path / "two"), resume=True))
    run_cpt(CptSettings(**options, out=str(tmp_path / "two"), resume=True))
