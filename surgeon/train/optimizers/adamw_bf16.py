"""AdamW whose two moments are kept in bfloat16: 4 bytes of state for a parameter in place of 8."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.train.settings import CptSettings
from surgeon.train.strength import Epsilon

STATE_BYTES = 4  # of state for a trained element
COARSEST = 2.0**-8  # half of the widest relative step between two bfloat16 numbers
_BUCKET = 1 << 26  # elements whose moments are in float32 at one time


def adamw_bf16(
    groups: list[dict[str, Any]], betas: tuple[float, float], *, eps: Epsilon = 1e-8
) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay, arithmetic in float32, both moments rounded to bfloat16 between the steps.

    groups: torch parameter groups with `params`, `lr` and `weight_decay`. A step takes the moments as they are before
    they are rounded, so the first step is AdamW's, bit for bit. bfloat16 numbers are up to 2^-7 of themselves apart,
    and a change of less than half of that is lost: a moment moves by 1 - beta of its distance to what it follows. So
    at 1 - beta < 2^-8 (beta above 0.99609375: 0.999, say) a second moment no longer falls when the gradients vanish,
    and such betas are refused. Above that it may rest up to 2^-8 / (1 - beta) of itself away from where it would go:
    8 % at 0.95 (4 % of the step), 39 % at 0.99.
    Source: Loshchilov and Hutter 2019 (1711.05101); the types are ours
    """
    _check_betas(betas)
    return AdamWBf16(groups, betas, eps)


def CHECK(settings: CptSettings, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse betas that are too near to 1."""
    _check_betas(settings.betas)


def _check_betas(betas: tuple[float, float]) -> None:
    for name, beta in zip(("first", "second"), betas, strict=True):
        if 1 - beta < COARSEST:
            raise UsageError(
                f"bfloat16 cannot hold what the {name} moment gains in a step at a beta of {beta:g}",
                "--betas",
                f"give a beta of at most {1 - COARSEST}, or use --optimizer adamw",
            )


class AdamWBf16(torch.optim.Optimizer):
    """See `adamw_bf16`. State of a parameter: `step` (a plain number), `exp_avg` and `exp_avg_sq` (bfloat16)."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for params in _buckets(group["params"]):
                self._update(params, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back a state; torch turns moments into the parameter's type, here they are turned back, exactly."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = state[key].to(torch.bfloat16)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if not self.state[p]:
                zeros = torch.zeros_like(p, dtype=torch.bfloat16)
                self.state[p] |= {"step": 0, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
            self.state[p]["step"] += 1
        (beta1, beta2), lr = group["betas"], group["lr"]
        steps = [self.state[p]["step"] for p in params]
        grads = [_own(p.grad) for p in params if p.grad is not None]
        held = {key: [_own(self.state[p][key]) for p in params] for key in ("exp_avg", "exp_avg_sq")}
        params = [_own(p) for p in params]
        first = [m.float() for m in held["exp_avg"]]
        second = [v.float() for v in held["exp_avg_sq"]]
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        for key, moments in (("exp_avg", first), ("exp_avg_sq", second)):
            torch._foreach_copy_(held[key], moments)
        torch._foreach_sqrt_(second)
        torch._foreach_div_(second, [(1 - beta2**t) ** 0.5 for t in steps])
        torch._foreach_add_(second, group["eps"])
        torch._foreach_addcdiv_(params, first, second, [-lr / (1 - beta1**t) for t in steps])


def _own(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it, where it is not shared. The update is by element."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _buckets(params: list[Tensor]) -> Iterator[list[Tensor]]:
    """The parameters that have a gradient, in order, some at a time; a large one alone."""
    bucket: list[Tensor] = []
    size = 0
    for p in params:
        if p.grad is None:
            continue
        if bucket and size + p.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(p)
        size += p.numel()
    if bucket:
        yield bucket
