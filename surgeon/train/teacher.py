"""The model that a run learns from: itself as it was at the start, or another one.

It is frozen, in evaluation (no dropout, no random number is drawn, so the student's dropout of a step is what it is
without a teacher) and without a graph. Nothing of it is state: it is made from the run's base before a run goes on
from a state, so a resumed run has the same teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from surgeon.errors import UsageError
from surgeon.train import attention
from surgeon.train.blocks import blocks_of
from surgeon.train.forward import Forward
from surgeon.train.hook import Run
from surgeon.train.linear_loss import logits_of
from surgeon.train.parallel import SOLO, World
from surgeon.train.prefix import Prefix, shared_prefix


@dataclass(frozen=True)
class Rows:
    """The logits of all tokens of a pass, made for some of them at a time: float32 [tokens, V]. Without a weight
    `hidden` are the logits."""

    hidden: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None

    def __getitem__(self, part: slice) -> Tensor:
        """A tensor of their own."""
        return logits_of(self.hidden[part], self.weight, self.bias)


class Teacher:
    """weights: what stands in the trained tensors' places while the teacher computes, so that there is no second
    model: the memory of it is that of the trained tensors. prefix: what it shares with the student. world: the
    processes that share its model and weights, whose trained tensors are `parameters`; every pass is a common one."""

    def __init__(
        self, forward: Forward, weights: Mapping[str, Tensor], prefix: Prefix | None = None,
        world: World = SOLO, parameters: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.forward, self.weights, self.prefix = forward, weights, prefix
        self.world, self._moving = world, dict(parameters or {})

    def needed(self, here: bool) -> bool:
        """Whether a pass over a micro-batch has to be made: by all processes that share the teacher, or by none."""
        return self.world.any(here)

    def rows(self, arguments: Mapping[str, Any]) -> Rows:
        """The logits of a batch, of which one chunk is made at a time where the head allows it. arguments: what the
        student is given for it."""
        held: list[Rows] = []

        def take(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            place = hidden.device.type
            dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else hidden.dtype
            # of several processes the gathered head is let go of behind the pass
            own = self.world.size > 1
            offset = None if bias is None else bias.detach().to(bias.dtype, copy=own)
            held.append(Rows(hidden.to(dtype), weight.detach().to(dtype, copy=own), offset))
            return hidden

        if self.forward.head is None:
            logits = self._output(arguments)
            return Rows(logits.reshape(-1, logits.shape[-1]))
        with self.forward.head.giving(take):
            self._output(arguments)
        return held[0]

    def hidden(self, arguments: Mapping[str, Any]) -> Tensor:
        """What its head reads, [tokens, H]."""
        with self.forward.head_input() as held:
            if self.forward.head is None:
                self._output(arguments)
            else:
                with self.forward.head.giving(lambda hidden, _weight, _bias: hidden):
                    self._output(arguments)
        return held[0].reshape(-1, held[0].shape[-1])

    @contextmanager
    def known(self) -> Iterator[None]:
        """The student's pass over the same batch, behind the teacher's: the shared blocks are not run again."""
        if self.prefix is None:
            yield
        else:
            with self.prefix.replayed():
                yield

    @torch.no_grad()
    def _output(self, arguments: Mapping[str, Any]) -> Tensor:
        model = self.forward.model
        was_training = model.training
        model.eval()
        try:
            with self._recorded(), self._standing() as weights:
                named = dict(arguments) | {"use_cache": False}
                result: Tensor = functional_call(model, weights, (), named).logits
        finally:
            model.train(was_training)
        return result

    @contextmanager
    def _standing(self) -> Iterator[dict[str, Tensor]]:
        """What a pass within it puts in the trained tensors' places."""
        if self.world.size == 1:
            yield dict(self.weights)
        else:  # a divided model's tensors are gathered from its own parts: nothing else can stand there
            with self.world.exchanged(self.forward.model, self._moving, self.weights):
                yield {}

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        if self.prefix is None:
            yield
        else:
            with self.prefix.recorded():
                yield


def of_run(run: Run, options: Mapping[str, Any]) -> Teacher:
    """The model named with --teacher, else the one that the run starts from."""
    return run.teacher or of_start(run)


def of_start(run: Run) -> Teacher:
    """The model as it is at the start of the run; divided as the model is, where several processes share that."""
    return Teacher(run.forward, run.anchors(), prefix_of(run), run.world, run.parameters)


def prefix_of(run: Run) -> Prefix:
    """What a teacher that differs from the student in the trained tensors shares with it; the same for all
    processes."""
    if run.world.size == 1:
        return shared_prefix(run.forward)
    model = run.forward.model
    with torch.no_grad():  # the first pass tells FSDP2 what is in the model: all of it, so nothing may stand in it
        run.forward.output(attention.arranged(attention.probe(model), run.forward.mode)[1])
    found = shared_prefix(run.forward)
    run.world.reshard(model)
    return Prefix(blocks_of(model), run.world.from_main(lambda: found.count))


def check_width(teacher: Any, student: Any) -> None:
    """The heads of both models read vectors of the same length. Raises UsageError."""
    theirs, ours = (m.config.get_text_config().hidden_size for m in (teacher, student))
    if theirs != ours:
        raise UsageError(
            f"the teacher's hidden states have {theirs} elements, the model's {ours}",
            "--teacher",
            "give a teacher of the same width, or distil its logits",
        )
