"""CoDyRA: every rank of a LoRA has a weight of its own, and those that give little become zero."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors import safe_open
from torch import Tensor, nn

from surgeon.checkpoint.index import ADAPTER_WEIGHTS
from surgeon.errors import UsageError
from surgeon.train.hook import Hook, Run
from surgeon.train.outline import Outline
from surgeon.train.strength import Epsilon, Strength

NEUTRAL, LAST, REMEMBERS = {"kappa": 0.0}, True, True
_FACTOR, _STORED = re.compile(r".*\.lora_B\.\w+\.weight"), re.compile(r".*\.lora_B\.weight")  # in memory, in a file


def codyra(
    run: Run, *, kappa: Strength = 7e-4, dense: Annotated[float, Field(ge=0, lt=1)] = 0.5, rate: Strength = 1.0,
    start: Literal["ones", "normal"] = "ones", eps: Epsilon = 1e-8,
) -> Hook:  # fmt: skip
    """Rank selection for adapters on linear modules: their update is B diag(w) A, and w is pulled to exact zeros.

    The gates w (one a column of B) learn by Adam at `rate` times the learning rate of their B, with the run's betas
    and without decay. After the first `dense` share of the steps each is drawn towards 0 after every step, w <-
    sign(w) max(|w| - kappa_t, 0), where kappa_t grows from 0 to `kappa` over the rest. At kappa=0 nothing is selected
    and the hook does nothing: the run is the plain one, byte for byte.
    Between the steps, and so in evaluations and in what is written, the adapter's B is B diag(w): a rank whose gate is
    zero is a column of zeros, and `surgeon simplify-adapter` takes it out. Metrics: codyra_ranks, gates that are not
    zero. start: `ones`, or `normal` (drawn from the seed, as in the authors' code; only while every B is zero).
    kappa, dense and rate are those of their code, in which a task has 1,000 steps: a gate that learns nothing loses
    kappa (1 - dense) / 2 times the steps of the run in all, so a longer run wants a smaller kappa.
    Where we differ from their code: kappa_t grows at every step, not in 50 stairs; the gates' Adam has the run's
    betas (theirs are 0.9 and 0.9999) and no decay; they start at 1; the gradient is clipped without the gates. An
    adapter that took its start out of the model's weights (pissa, olora, corda) is no case for this: without a rank
    of it the model lacks that direction.
    Behind it no other method may act (it is to be the last --meta): B itself is kept here and put back at every step,
    so that what Reptile or Nexus did to B diag(w) would be lost.
    Several processes that share the model hold rows of B and all gates. Raises UsageError without LoRA. Arithmetic in
    float32.
    Source: Lu et al. 2024 (2412.01004) and the authors' code; of image models, on texts an extrapolation
    """
    factors = _factors(run.parameters)
    if start == "normal" and run.world.any(any(bool(run.world.local(p.detach()).any()) for p in factors.values())):
        raise _computes_already()
    return _Codyra(run, factors, (kappa, dense, rate, eps), start) if kappa else Hook()


def FITS(outline: Outline, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse a run without LoRA, and drawn gates of one that was trained."""
    _factors(outline.parameters)
    if options["start"] == "normal" and outline.adapter is not None:
        with safe_open(outline.adapter / ADAPTER_WEIGHTS, framework="pt") as held:
            if any(bool(held.get_tensor(name).any()) for name in held.keys() if _STORED.fullmatch(name)):  # noqa: SIM118
                raise _computes_already()


def _computes_already() -> UsageError:
    return UsageError(
        "gates that are drawn would change what this adapter computes already", "codyra:start", "use ones"
    )


def _factors(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """B of every LoRA, by name. Raises UsageError where there is none."""
    found = {name: p for name, p in parameters.items() if _FACTOR.fullmatch(name)}
    if not found:
        raise UsageError(
            "there is no LoRA whose ranks could be selected", "--meta codyra", "train one: --train adapter"
        )
    return found


class _Codyra(Hook):
    """Between after_backward and after_update the parameters are B itself, with its own gradients; else B diag(w)."""

    def __init__(
        self, run: Run, factors: Mapping[str, nn.Parameter], numbers: tuple[float, float, float, float], start: str
    ) -> None:
        self._factors, self._total, self._optimizer, self._world = factors, run.total, run.optimizer, run.world
        self._kappa, self._dense, self._rate, self._eps = numbers
        generator = torch.Generator().manual_seed(run.seed)
        self._updates = 0
        self._held: dict[str, dict[str, Tensor]] = {}
        for name, p in factors.items():
            gates = torch.randn(p.shape[1], generator=generator) if start == "normal" else torch.ones(p.shape[1])
            gates = gates.to(p.device)
            zeros = torch.zeros_like(gates)
            factor = self._world.local(p.detach()).clone()
            self._held[name] = {"factor": factor, "gates": gates, "first": zeros, "second": zeros.clone()}
        self._gradients: dict[str, Tensor] = {}

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        for name, p in self._factors.items():
            held = self._held[name]
            if p.grad is not None:
                gradient = self._world.local(p.grad)
                self._gradients[name] = self._world.sum((held["factor"] * gradient).sum(0))
                gradient.mul_(held["gates"])
            self._world.local(p).copy_(held["factor"])

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        self._updates += 1
        dense = self._dense * self._total
        # now: a state that is restored brings new groups
        groups = {id(p): group for group in self._optimizer.param_groups for p in group["params"]}
        threshold = self._kappa * max(0.0, step - dense) / (self._total - dense)
        for name, p in self._factors.items():
            held = self._held[name]
            factor = self._world.local(p)
            held["factor"].copy_(factor)
            if name in self._gradients:
                self._learn(held, self._gradients.pop(name), groups[id(p)])
            held["gates"].copy_(soft_threshold(held["gates"], threshold))
            factor.mul_(held["gates"])

    def _learn(self, held: dict[str, Tensor], gradient: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        held["first"].lerp_(gradient, 1 - beta1)
        held["second"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (held["second"].sqrt() / (1 - beta2**self._updates) ** 0.5).add_(self._eps)
        size = self._rate * group["lr"] / (1 - beta1**self._updates)
        held["gates"].addcdiv_(held["first"], scale, value=-size)

    def metrics(self) -> dict[str, float]:
        return {"codyra_ranks": float(sum(held["gates"].count_nonzero() for held in self._held.values()))}

    def state(self) -> dict[str, Any]:
        whole = {n: self._world.joined(self._held[n]["factor"], p.detach()) for n, p in self._factors.items()}
        held = {name: kept | {"factor": whole[name]} for name, kept in self._held.items()}
        return {"updates": self._updates, "held": held}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._updates = state["updates"]
        for name, p in self._factors.items():
            held = state["held"][name]
            factor = self._world.part(held["factor"], p.detach())
            self._held[name] = {key: t.to(p.device) for key, t in (held | {"factor": factor}).items()}


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """sign(v) max(|v| - threshold, 0): the proximal step of threshold * ||v||_1."""
    return values.sign() * (values.abs() - threshold).clamp(min=0)
