"""Decoupled tuning: a learning rate for every tensor, lower where general text depends on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from surgeon.errors import SurgeonError, UsageError
from surgeon.train.gradient import gradient
from surgeon.train.hook import Hook, Run
from surgeon.train.outline import Outline
from surgeon.train.probes import packed

NEUTRAL, CORPORA, REMEMBERS = {"strength": 0.0}, ("probe",), True
BY_TENSOR = True  # an optimizer group has one rate

Whole = Annotated[int, Field(ge=1)]


def decoupled(
    run: Run, *, probe: str, every: Whole = 100, rule: Literal["code", "paper"] = "code",
    normalize: Literal["none", "mean"] = "none", strength: Annotated[float, Field(ge=0, le=1)] = 1.0,
    batches: Whole = 4, rows: Whole = 16,
) -> Hook:  # fmt: skip
    """ADEPT's second stage: the rate of each trained tensor by its importance to a probe of general text.

    A unit is a trained tensor, as in the paper (meant for --train new-blocks). Every `every` steps its importance I is
    taken on `batches` batches of `rows` windows of the corpus `probe`, the same ones each time, and its rate is the
    run's times a multiplier w. Until the first of these w is 1: in new blocks that start as the identity most
    importances are zero. theta and g are float32, sums float64; frozen rows do not count. g is of the run's own
    objective, as the steps that it is to slow down take it; the paper has that of the next token, which is the same
    for next_token alone.
    rule=code, what the authors' program does: I = mean over the unit of |theta| mean over batches of |g|, and
    w = 2 (max I - I) / (max I - min I) over all units, so the most important one stands still and the least important
    one has twice the rate; w = 1 where all are equally important.
    rule=paper, its formula as others quote it: I = mean over the unit of theta g, with its sign, and w = 2 (1 - I).
    It gives no scale for I: where importances are far below 1, as they are in a trained model, w is near 2 for all.
    The factor 2 keeps the mean rate only where the mean of I, scaled to [0, 1], is 1/2; normalize=mean divides w by
    its mean over the units. strength: the multiplier that is used is 1 + strength (w - 1), so 0 is the plain run.
    every: the default of the authors' class; their program calls it with 500. They take the whole probe; `batches` is
    ours.
    Metrics: `decoupled_mean`, the mean over the units of the multiplier that is used, `decoupled_mean_by_size`, the
    same weighted by elements, `decoupled_min` and `decoupled_max`.
    Source: Zhang et al. 2025 (2510.10071), section on decoupled tuning, and its code's ParameterImportanceCallback
    """
    return _Decoupled(run, probe, every, _RULES[rule], normalize == "mean", strength, batches, rows)


def FITS(outline: Outline, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse a probe that cannot be read for this model."""
    packed(outline, options["probe"])


class _Decoupled(Hook):
    def __init__(
        self, run: Run, probe: str, every: int, rule: _Rule, to_mean: bool, strength: float, batches: int, rows: int
    ) -> None:
        self._run, self._every, self._rule = run, every, rule
        self._to_mean, self._strength = to_mean, strength
        corpus = packed(run, probe)
        self._batches = [[corpus.window(b * rows + row) for row in range(rows)] for b in range(batches)]
        self._sizes = {name: _size(run, name) for name in run.parameters}
        self._used = dict.fromkeys(run.parameters, 1.0)
        held = [group["params"] for group in run.optimizer.param_groups]
        if any(len(parameters) != 1 for parameters in held):
            raise UsageError(
                "the optimizer keeps tensors together that are to have rates of their own",
                f"{type(run.optimizer).__name__}",
                "use one that takes its groups as they are, such as --optimizer adamw",
            )

    def before_step(self, step: int) -> None:
        if step > 1 and (step - 1) % self._every == 0:
            weights = self._rule.weights(self._importances())
            if self._to_mean:
                weights = _scaled(weights)
            self._used = {name: 1 + self._strength * (weight - 1) for name, weight in weights.items()}

    def before_update(self, step: int) -> None:
        for group in self._run.optimizer.param_groups:
            group["lr"] *= self._used[self._run.name_of(group["params"][0])]

    def metrics(self) -> dict[str, float]:
        values, sizes = list(self._used.values()), list(self._sizes.values())
        by_size = sum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)
        return {
            "decoupled_mean": sum(values) / len(values),
            "decoupled_mean_by_size": by_size,
            "decoupled_min": min(values),
            "decoupled_max": max(values),
        }

    def state(self) -> dict[str, Any]:
        return {"used": dict(self._used)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._used = dict(state["used"])

    def _importances(self) -> dict[str, float]:
        """Means over the elements that may move; what the loss does not depend on has none."""
        world = self._run.world
        sums = {name: torch.zeros((), dtype=torch.float64, device=self._run.device) for name in self._sizes}
        for windows in self._batches:
            with gradient(self._run, windows) as held:
                for name, value in held.items():
                    theta = world.local(self._run.parameters[name].detach())
                    sums[name] += self._rule.product(theta, value).sum(dtype=torch.float64)
        whole = {name: float(world.sum(value)) for name, value in sums.items()}
        found = {name: value / len(self._batches) / self._sizes[name] for name, value in whole.items()}
        for name, importance in found.items():
            if not math.isfinite(importance):
                raise SurgeonError(
                    f"the importance of {name} is {importance}",
                    "--meta decoupled",
                    "look at the loss in metrics.jsonl",
                )
        return found


class _Rule:
    """product: of a tensor and its gradient, element by element. weights: multipliers of importances."""

    def __init__(
        self, product: Callable[[Tensor, Tensor], Tensor], weights: Callable[[dict[str, float]], dict[str, float]]
    ) -> None:
        self.product, self.weights = product, weights


def code_weights(importances: Mapping[str, float]) -> dict[str, float]:
    """2 (max - I) / (max - min): 0 for the greatest, 2 for the least; 1 where all are equal."""
    most, least = max(importances.values()), min(importances.values())
    if most == least:
        return dict.fromkeys(importances, 1.0)
    return {name: 2 * ((most - value) / (most - least)) for name, value in importances.items()}


def paper_weights(importances: Mapping[str, float]) -> dict[str, float]:
    """2 (1 - I). Raises SurgeonError where that is a rate below zero."""
    for name, value in importances.items():
        if value > 1:
            raise SurgeonError(
                f"the importance {value:g} is above 1, and its rate would be below zero",
                f"--meta decoupled:rule=paper, {name}",
                "use rule=code, which scales importances",
            )
    return {name: 2 * (1 - value) for name, value in importances.items()}


_RULES = {
    "code": _Rule(lambda theta, g: theta.abs() * g.abs(), code_weights),
    "paper": _Rule(lambda theta, g: theta * g, paper_weights),
}


def _scaled(weights: dict[str, float]) -> dict[str, float]:
    mean = sum(weights.values()) / len(weights)
    if not mean > 0:
        raise SurgeonError("the multipliers are all zero", "--meta decoupled:normalize=mean", "use normalize=none")
    return {name: weight / mean for name, weight in weights.items()}


def _size(run: Run, name: str) -> int:
    """Elements that may move."""
    parameter = run.parameters[name]
    return int(run.rows[name].sum()) * parameter.shape[1] if name in run.rows else parameter.numel()
