"""The blocks below everything that is trained, computed once for two passes over the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgeon.train import attention
from surgeon.train.blocks import blocks_of

if TYPE_CHECKING:
    from surgeon.train.forward import Forward

Instead = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]  # of (block, its arguments, those by name)


class Prefix:
    """The first `count` blocks of a model: what they give in one pass, another one takes as it is.

    What is taken over is the output of the last of them, in the form in which it gave it; those before it give the
    same, which nobody reads.
    """

    def __init__(self, blocks: nn.ModuleList, count: int) -> None:
        self._blocks, self.count = blocks, count
        self._held: Any = None

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """The pass within it is kept."""
        with _standing(self._blocks, [self.count - 1] if self.count else [], self._keep):
            yield

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """The pass within it takes what was kept, and then it is forgotten."""
        try:
            with _standing(self._blocks, range(self.count), lambda *_: self._held):
                yield
        finally:
            self._held = None

    def _keep(self, block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self._held = block(*given, **named)
        return self._held


def shared_prefix(forward: Forward) -> Prefix:
    """The longest prefix that a pass in evaluation and one in training can share, by trying it on this very model.

    Its outputs hang on nothing that is trained (they require no gradient) and not on chance (no random number is
    drawn, and the bits are those of evaluation). Where a model's later blocks read more of the earlier ones than their
    output, nothing is shared: passes with and without must be equal bit for bit.
    """
    model = forward.model
    blocks = blocks_of(model)
    _, arguments = attention.arranged(attention.probe(model), forward.mode)
    was_training = model.training
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            trained, plain = (_watched(forward, blocks, arguments, device, training) for training in (True, False))
            count = 0
            for (ours, moving), (theirs, _) in zip(trained, plain, strict=False):
                if moving or not torch.equal(ours, theirs):
                    break
                count += 1
            prefix = Prefix(blocks, count)
            return prefix if count == 0 or _holds(forward, prefix, arguments) else Prefix(blocks, 0)
    finally:
        model.train(was_training)


def _watched(
    forward: Forward, blocks: nn.ModuleList, arguments: Mapping[str, Any], device: torch.device, training: bool
) -> list[tuple[Tensor, bool]]:
    """For each block in order (its output, whether that moves: requires a gradient, or a random number was drawn)."""
    begin = _generators(device)
    seen: list[tuple[Tensor, bool]] = []

    def watch(block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        output = block(*given, **named)
        drawn = any(not torch.equal(a, b) for a, b in zip(begin, _generators(device), strict=True))
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append((hidden.detach(), hidden.requires_grad or drawn))
        return output

    forward.model.train(training)
    with _standing(blocks, range(len(blocks)), watch), attention.uncompiled(), torch.set_grad_enabled(training):
        forward.output(arguments)  # not compiled for a probe
    return seen


def _generators(device: torch.device) -> list[Tensor]:
    held = [torch.get_rng_state()]
    return [*held, torch.cuda.get_rng_state(device)] if device.type == "cuda" else held


@torch.no_grad()
def _holds(forward: Forward, prefix: Prefix, arguments: Mapping[str, Any]) -> bool:
    """Whether a replayed pass is the plain one; blocks that miss what others left for them raise one of these."""
    forward.model.eval()
    try:
        plain = forward.output(arguments).logits
        with prefix.recorded():
            forward.output(arguments)
        with prefix.replayed():
            again = forward.output(arguments).logits
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError):
        return False
    return torch.equal(plain, again)


class _Stand(nn.Module):
    """In a block's place: has its attributes, and is called in its stead."""

    def __init__(self, block: nn.Module, instead: Instead) -> None:
        super().__init__()
        self._block, self._instead = (block,), instead  # in a tuple, so that it is no submodule

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block[0], name)

    def forward(self, *given: Any, **named: Any) -> Any:
        return self._instead(self._block[0], given, named)


@contextmanager
def _standing(blocks: nn.ModuleList, numbers: Any, instead: Instead) -> Iterator[None]:
    real = {number: blocks[number] for number in numbers}
    for number, block in real.items():
        blocks[number] = _Stand(block, instead)
    try:
        yield
    finally:
        for number, block in real.items():
            blocks[number] = block
