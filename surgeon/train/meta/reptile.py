"""Reptile: now and then most of the way back to where the window began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from surgeon.train.hook import Hook, Run

NEUTRAL, REMEMBERS = {"eps": 1.0}, True


def reptile(
    run: Run, *, every: Annotated[int, Field(ge=1)] = 500, eps: Annotated[float, Field(ge=0, le=1)] = 0.1
) -> Hook:
    """Every k steps theta <- theta_{t-k} + eps (theta_t - theta_{t-k}), which favours gradients that agree.

    every: k, in steps of the run. eps: how much of the way is kept; 1 changes nothing, 0 goes back to the start of
    the window, both bit for bit. On the trained tensors alone, the float32 masters, which the next step goes on from;
    the optimizer's moments are left as they are, as in the paper. theta_{t-k} is kept on the CPU, and in the state of
    the run. Steps behind the last full window are kept in full. Of an adapter the factors themselves are moved, not
    their product. The metric `reptile_distance` is the length of theta_t - theta_{t-k}.
    The defaults are the paper's. Its code differs (as read, not run): 0.01 for eps, an interpolation before the first
    step, and of the model's copy of the weights, which the optimizer's float32 masters overwrite.
    Source: Abbes et al. 2025 (2508.01908), after Riemer et al. 2019 (1810.11910)
    """
    return _Reptile(run, every, eps)


class _Reptile(Hook):
    def __init__(self, run: Run, every: int, eps: float) -> None:
        self._run, self._every, self._eps = run, every, eps
        self._start: dict[str, Tensor] = {}
        masks = {name: run.world.local_rows(mask, run.parameters[name]) for name, mask in run.rows.items()}
        self._rows = {name: mask[:, None] for name, mask in masks.items()}  # embeddings and heads: matrices
        self._metrics: dict[str, float] = {}

    def begin(self, step: int) -> None:
        if not self._start:
            self._start = {name: _host(self._local(name)) for name in self._run.parameters}

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        self._metrics = {}
        if step % self._every:
            return
        total = torch.zeros((), dtype=torch.float64, device=self._run.device)
        for name, start in self._start.items():
            parameter = self._local(name)
            before = start.to(parameter.device, non_blocking=True)
            # frozen rows stand where the optimizer's decay has moved them, until they are put back
            now = torch.where(self._rows[name], parameter, before) if name in self._rows else parameter
            total += (now - before).square().sum(dtype=torch.float64)
            if self._eps < 1:  # at 1 the arithmetic of lerp loses the sign of a negative zero
                now = torch.lerp(before, now, self._eps) if self._eps else before
                parameter.copy_(now)
            start.copy_(now)
        self._metrics = {"reptile_distance": float(self._run.world.sum(total).sqrt())}

    def metrics(self) -> dict[str, float]:
        return self._metrics

    def state(self) -> dict[str, Any]:
        world, parameters = self._run.world, self._run.parameters
        return {"start": {n: world.joined(self._start[n], p.detach()) for n, p in parameters.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        parts = {n: self._run.world.part(state["start"][n], p.detach()) for n, p in self._run.parameters.items()}
        self._start = {name: _host(part) for name, part in parts.items()}

    def _local(self, name: str) -> Tensor:
        return self._run.world.local(self._run.parameters[name].detach())


def _host(tensor: Tensor) -> Tensor:
    """A copy on the CPU, in memory that the device reaches at once."""
    found = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return found.copy_(tensor)
