"""The blocks of a loaded model as a stack that can be entered at any height."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgeon.arch.family import Family


@dataclass(frozen=True)
class Passage:
    """One forward pass. logits: [rows, tokens, V]. entering: what entered each block, [rows, tokens, D].
    left: what each block returned: a tensor like that, or a tuple that begins with it."""

    logits: Tensor
    entering: list[Tensor]
    left: list[Any]

    def leaving(self, block: int) -> Tensor:
        found = self.left[block]
        result: Tensor = found[0] if isinstance(found, tuple) else found
        return result


class Stack:
    """A causal language model of transformers, in eval mode, and the modules that are its blocks."""

    def __init__(self, model: Any, family: Family) -> None:
        self.model = model.eval()
        path = family.declaration.base + family.declaration.blocks
        self.blocks: list[Any] = list(model.get_submodule(path.rstrip(".")))

    @torch.no_grad()
    def run(self, ids: Tensor) -> Passage:
        """The whole model on ids [rows, tokens], padded behind the text."""
        entering: list[Tensor] = []
        left: list[Any] = []

        def enter(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entering.append(_hidden(args, kwargs))

        def leave(_: Any, args: Any, output: Any) -> None:
            left.append(output)

        hooks = [h for b in self.blocks for h in (b.register_forward_pre_hook(enter, with_kwargs=True),
                                                  b.register_forward_hook(leave))]  # fmt: skip
        try:
            logits = self.model(input_ids=ids, use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()
        return Passage(logits, entering, left)

    @torch.no_grad()
    def enter(self, ids: Tensor, height: int, hidden: Tensor, passage: Passage) -> Tensor:
        """Logits where `hidden` enters block `height`; the blocks below do no work. passage: of the same ids."""
        with self._silent(height, hidden, passage):
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits

    @contextmanager
    def _silent(self, height: int, hidden: Tensor, passage: Passage) -> Iterator[None]:
        """The blocks below return `hidden`, in the form in which they returned their own."""
        below = self.blocks[:height]
        for block, own in zip(below, passage.left, strict=False):
            result = (hidden, *own[1:]) if isinstance(own, tuple) else hidden
            block.forward = _returning(result)
        try:
            yield
        finally:
            for block in below:
                del block.forward  # the method of its class again


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    found: Tensor = args[0] if args else kwargs["hidden_states"]
    return found


def _returning(result: Any) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return result

    return forward
