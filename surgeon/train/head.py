"""The loss inside the head's own forward, where the model's logits are the head's output and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.train import attention
from surgeon.train.linear_loss import linear_nats

Taken = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # of (hidden states [tokens, H], weight [V, H], bias [V])


class Head:
    """Makes a model's head give something else than logits, while `labels` or `giving` are set.

    The head stays the module that is called (FSDP2 gathers its weight around that call, and only then).
    """

    def __init__(self, module: nn.Linear) -> None:
        self._module, self._plain = module, module.forward
        self._taken: Taken | None = None
        module.forward = self._forward  # type: ignore[method-assign,assignment]

    @contextmanager
    def giving(self, taken: Taken) -> Iterator[None]:
        """Within it the model's `logits` are what this function makes of the head's inputs."""
        self._taken = taken
        try:
            yield
        finally:
            self._taken = None

    def labels(self, labels: Tensor, *, compiled: bool = False) -> AbstractContextManager[None]:
        """Within it the model's `logits` are the loss: a scalar, float32, in nats over the labels that count."""
        flat = labels.reshape(-1)
        return self.giving(lambda hidden, weight, bias: linear_nats(hidden, weight, bias, flat, compiled=compiled))

    def _forward(self, hidden: Tensor) -> Tensor:
        if self._taken is None:
            return self._plain(hidden)
        flat = hidden.reshape(-1, hidden.shape[-1])
        return self._taken(flat, self._module.weight, self._module.bias)


def head_of(model: Any) -> nn.Linear | None:
    """The head, where the loss can be taken in it: a plain linear module, whose output the model gives as its logits
    unchanged (no scale, no soft cap), as a probe on this very model shows. None elsewhere.

    The probe puts random numbers in the place of the head's output: its own say nothing where its weights are still
    zeros."""
    module = model.get_output_embeddings()
    if not _is_plain(module) or "forward" in vars(module):
        return None
    held: list[Tensor] = []

    def instead(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        held.append(_random(output))
        return held[-1]

    handle = module.register_forward_hook(instead)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), attention.texts():
            ids = torch.arange(3, 8, device=module.weight.device)[None] % module.weight.shape[0]
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
        model.train(was_training)
    same = len(held) == 1 and held[0].shape == logits.shape and torch.equal(held[0].float(), logits.float())
    return module if same else None


def _random(like: Tensor) -> Tensor:
    """Numbers as large as logits are, and larger."""
    return (100 * torch.randn(like.shape, generator=torch.Generator().manual_seed(0))).to(like)


def _is_plain(module: Any) -> bool:
    """Linear and nothing of its own; torch gives a module that is divided among processes a class in front of its."""
    if type(module) is nn.Linear:
        return True
    from torch.distributed.fsdp import FSDPModule  # costs time where one process is all there is

    return type(module).__bases__ == (FSDPModule, nn.Linear)
