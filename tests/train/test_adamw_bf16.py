"""AdamW with moments in bfloat16: beside torch's, with the rounding that is stated; half the state; exact resume."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import check_new_rows, check_resume
from torch import Tensor, nn

from surgeon.errors import UsageError
from surgeon.registry import get
from surgeon.train.optimizers.adamw_bf16 import COARSEST, adamw_bf16
from surgeon.train.settings import CptSettings

BETAS, EPS, LR, DECAY = (0.9, 0.95), 1e-8, 1e-2, 0.1


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((5, 7), (11,))]


def gradients(step: int) -> list[Tensor]:
    """Of changing size: three orders of magnitude."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(*shape, generator=generator) * 10.0 ** -(step % 4) for shape in ((5, 7), (11,))]


def update(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], step: int) -> None:
    for p, g in zip(params, gradients(step), strict=True):
        p.grad = g
    optimizer.step()


def group(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params, "lr": LR, "weight_decay": DECAY}]


def test_the_first_step_is_adamw_bit_for_bit() -> None:
    ours, theirs = parameters(), parameters()
    update(adamw_bf16(group(ours), BETAS, eps=EPS), ours, 0)
    update(torch.optim.AdamW(group(theirs), betas=BETAS, eps=EPS, foreach=True), theirs, 0)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_moments_and_weights_stay_within_the_rounding_of_bfloat16() -> None:
    """The bound by the recursion itself: a moment that is stored is off by 2^-8 of itself, and what was off before is
    multiplied by beta. Weights: by the interval of the quotient that these bounds allow, summed over the steps."""
    ours, exact = parameters(), [p.detach().double() for p in parameters()]
    optimizer = adamw_bf16(group(ours), BETAS, eps=EPS)
    rounding = 1e-5  # of float32, over 40 steps
    m = [torch.zeros_like(p) for p in exact]
    v, off_m, off_v, off = (copy.deepcopy(m) for _ in range(4))
    for step in range(40):
        update(optimizer, ours, step)
        for i, g in enumerate(gradients(step)):
            m[i] = BETAS[0] * m[i] + (1 - BETAS[0]) * g.double()
            v[i] = BETAS[1] * v[i] + (1 - BETAS[1]) * g.double() ** 2
            off_m[i] *= BETAS[0]
            off_v[i] *= BETAS[1]
            first, second = 1 - BETAS[0] ** (step + 1), 1 - BETAS[1] ** (step + 1)
            size = m[i] / first / ((v[i] / second).sqrt() + EPS)
            least = ((v[i] - off_v[i]).clamp(min=0) / second).sqrt() + EPS
            exact[i] = exact[i] * (1 - LR * DECAY) - LR * size
            # 1/sqrt is convex: the lower end of the second moment is the further one
            off[i] = off[i] + LR * ((m[i].abs() + off_m[i]) / first / least - size.abs())
            assert ((ours[i].detach().double() - exact[i]).abs() <= off[i] + rounding).all()
            off_m[i] += COARSEST * (m[i].abs() + off_m[i])
            off_v[i] += COARSEST * (v[i] + off_v[i])
            state = optimizer.state[ours[i]]
            assert ((state["exp_avg"].double() - m[i]).abs() <= off_m[i] + 1e-7).all()
            assert ((state["exp_avg_sq"].double() - v[i]).abs() <= off_v[i] + 1e-7).all()
    assert float(off[0].mean()) < 0.5 * LR * 40, "the bound says something: far below what 40 full steps could differ"


def test_the_state_is_half_as_large() -> None:
    params = parameters()
    ours = adamw_bf16(group(params), BETAS)
    update(ours, params, 0)
    held = [t for s in ours.state.values() for t in s.values() if isinstance(t, Tensor)]
    assert sum(t.nbytes for t in held) == 4 * sum(p.numel() for p in params)


def test_a_restored_state_goes_on_bit_for_bit() -> None:
    whole = parameters()
    optimizer = adamw_bf16(group(whole), BETAS)
    for step in range(3):
        update(optimizer, whole, step)
    again = [nn.Parameter(p.detach().clone()) for p in whole]
    restored = adamw_bf16(group(again), BETAS)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert {t.dtype for s in restored.state.values() for t in s.values() if isinstance(t, Tensor)} == {torch.bfloat16}
    for step in range(3, 6):
        update(optimizer, whole, step)
        update(restored, again, step)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


def test_a_second_moment_falls_at_the_bound_and_not_below_it() -> None:
    """Why the bound is where it is: v and no gradient, from a number just above a power of two."""
    for beta, falls in ((1 - COARSEST, True), (1 - COARSEST / 2, False)):
        v = torch.tensor([1 + 2.0**-7], dtype=torch.bfloat16)
        moved = (v.float() * beta).to(torch.bfloat16)
        assert bool(moved < v) is falls


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.997, 0.95)])
def test_betas_that_bfloat16_cannot_hold_are_refused(betas: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="bfloat16 cannot hold"):
        adamw_bf16(group(parameters()), betas)
    adamw_bf16(group(parameters()), (0.9, 1 - COARSEST))


def test_a_run_that_goes_on_ends_with_the_same_bytes(tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    check_resume(tiny("llama"), tmp_path, corpus, optimizer="adamw_bf16")


def test_the_plan_counts_the_smaller_state(tiny: Callable[..., Path], corpus: Path) -> None:
    from surgeon.train.footprint import memory_bytes
    from surgeon.train.job import prepare

    found = {}
    for name in ("adamw", "adamw_bf16"):
        settings = CptSettings(
            model=str(tiny("llama")), out=str(corpus.parent / "o"), data=[str(corpus)], tokens=64, seq_len=16,
            optimizer=name,
        )  # fmt: skip
        found[name] = memory_bytes(prepare(settings, dry=True))["training"]
    assert found["adamw_bf16"] * 12 == found["adamw"] * 8


def test_new_rows_alone_move(tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    check_new_rows(tiny("llama"), tmp_path, corpus, optimizer="adamw_bf16")


@pytest.mark.parametrize("name", ["adamw", "adamw_bf16", "coso", "osf"])
@pytest.mark.parametrize("eps", ["-1", "0", "nan", "inf"])
def test_an_epsilon_that_divides_by_nothing_is_a_wrong_word(name: str, eps: str) -> None:
    with pytest.raises(UsageError, match="eps"):
        get("optimizer", name).bind({"eps": eps})
