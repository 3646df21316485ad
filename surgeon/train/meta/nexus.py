"""Nexus, experimental: small steps inside each step, whose sum is handed to the optimizer as the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.train.hook import Hook, Run
from surgeon.train.strength import Strength

NEUTRAL = {"inner_lr": 0.0}
EXAMPLE = {"inner_lr": 0.05}


def nexus(run: Run, *, inner_lr: Strength = 0.01, normalize: bool = True) -> Hook:
    """Experimental: over micro-batches theta_i = theta_{i-1} - gamma g_i / |g_i|, which favours gradients that agree.

    Each micro-batch of a step takes a step of its own on the trained tensors (float32, all tensors as one vector);
    then they are put back, and (theta_0 - theta_K) / gamma takes the place of the gradient, before clipping and the
    outer optimizer. As many passes as before, and one more copy of the trained tensors. gamma: inner_lr; at 0 it does
    nothing. normalize=false steps along g_i itself: averaged over the order of two micro-batches the result is then
    g_1 + g_2 - gamma/2 grad(g_1 . g_2) up to terms in gamma^2, of one micro-batch it is the gradient. Either carries
    the rounding of the weights, up to 2^-24 |theta| K / gamma in an element for K micro-batches: a very small gamma
    drowns in it.
    What is not known: the paper's algorithm and code could not be read. That the inner loop works on a copy, at equal
    passes, and hands over its displacement, is told of it; that inner steps are normalised is the authors' earlier
    habit; the division by gamma (which keeps clipping meaningful) and the default are ours. In the paper a micro-batch
    may be of one source; here they are as the mixture deals them, and the result depends on --micro-batch. A gradient
    of a regularizer is taken where the inner steps ended. Several processes share every micro-batch, so that the inner
    steps are those of one: --micro-batch is then best a multiple of their number.
    The metric `nexus_agreement` is |sum of the steps| / (gamma K): 1 where all of them point one way; the host
    waits for it once a step.
    Source: Chen et al. 2026 (2604.09258)
    """
    return _Nexus(run, inner_lr, normalize)


class _Nexus(Hook):
    def __init__(self, run: Run, inner_lr: float, normalize: bool) -> None:
        self._run, self._lr, self._normalize = run, inner_lr, normalize
        self.between_micro_batches = bool(inner_lr)
        masks = {name: run.world.local_rows(mask, run.parameters[name]) for name, mask in run.rows.items()}
        self._rows = {name: mask[:, None] for name, mask in masks.items()}
        self._start: list[Tensor] = []
        self._count = 0
        self._seen: set[str] = set()  # trained tensors that had a gradient in this step; asked, never gone through
        self._agreement: Tensor | None = None

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        self._count = 0
        self._seen.clear()
        if self._lr and not self._start:
            self._start = [torch.empty_like(p) for p in self._run.parameters.values()]
        for start, parameter in zip(self._start, self._run.parameters.values(), strict=False):
            start.copy_(parameter)

    @torch.no_grad()
    def after_micro_batch(self, step: int) -> None:
        if not self._lr:
            return
        self._count += 1
        moved = [(p, self._gradient(name, p)) for name, p in self._run.parameters.items() if p.grad is not None]
        self._seen.update(name for name, p in self._run.parameters.items() if p.grad is not None)
        scale: Tensor | float = self._lr
        if self._normalize:
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for _, g in moved]))
            if self._run.world.size > 1:
                norm = self._run.world.sum(norm.square()).sqrt()
            scale = torch.where(norm > 0, self._lr / norm, 0.0)  # on the device: nobody waits for it
        for parameter, gradient in moved:
            self._run.world.local(parameter).sub_(gradient * scale)
            parameter.grad = None

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        if not self._lr:
            return
        total = torch.zeros((), device=self._run.device)
        for start, (name, parameter) in zip(self._start, self._run.parameters.items(), strict=True):
            if name not in self._seen:
                continue
            displacement = (start - parameter) / self._lr
            total += self._run.world.local(displacement).square().sum()
            parameter.copy_(start)
            parameter.grad = displacement if parameter.grad is None else parameter.grad.add_(displacement)
        self._agreement = self._run.world.sum(total).sqrt() / self._count

    def metrics(self) -> dict[str, float]:
        if self._agreement is None or not self._normalize:
            return {}
        return {"nexus_agreement": float(self._agreement)}

    def _gradient(self, name: str, parameter: Tensor) -> Tensor:
        """The part of this process; of frozen rows it is nothing: they stand where they are inside the step too."""
        assert parameter.grad is not None
        gradient = self._run.world.local(parameter.grad)
        return gradient if name not in self._rows else torch.where(self._rows[name], gradient, 0.0)
