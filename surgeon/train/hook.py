"""What acts on a run between its updates, besides the loss: a controller of rates, a meta-update, a probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgeon.data.pack import Window
from surgeon.data.tokens import Tokens
from surgeon.errors import UsageError
from surgeon.train.forward import Forward
from surgeon.train.parallel import SOLO, World

if TYPE_CHECKING:
    from surgeon.train.teacher import Teacher


@dataclass(frozen=True)
class Run:
    """What a hook sees of a run. parameters: the trained ones by name, float32 masters. total: steps of the run.

    loss: of some windows under the run's objective, a mean in nats a target, with a graph (run it in float32 or the
    run's own type, as it is). windows: of optimiser step k (from 0), for probes of the run's own data.
    forward: of the model, for losses of one's own. anchors: gives the trained tensors as they were at the start, to
    whoever asks while methods are made. teacher: the model of --teacher. replays: whether replay has a share of the
    run. seq_len, micro_batch: tokens of a window and windows of one forward pass; with a length curriculum those of
    the longest. world: the processes that share the parameters. texts: see surgeon.train.outline.
    """

    model: Any
    parameters: dict[str, nn.Parameter]
    rows: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer
    device: torch.device
    tokenizer: Any
    seed: int
    total: int
    seq_len: int
    lr: float
    loss: Callable[[list[Window]], Tensor]
    windows: Callable[[int], list[Window]]
    names: dict[int, str] = field(default_factory=dict)
    forward: Forward = field(kw_only=True)
    anchors: Callable[[], Mapping[str, Tensor]] = field(kw_only=True)
    teacher: Teacher | None = field(kw_only=True, default=None)
    replays: bool = field(kw_only=True, default=False)
    micro_batch: int = field(kw_only=True, default=1)
    world: World = field(kw_only=True, default=SOLO)
    texts: dict[str, Tokens] = field(kw_only=True, default_factory=dict)

    def name_of(self, parameter: nn.Parameter) -> str:
        """The name of a trained parameter in an optimiser group."""
        return self.names[id(parameter)]


def undivided(run: Run, what: str) -> None:
    """Refuse a method that needs whole tensors in a run whose processes hold parts of them."""
    from torch.distributed.tensor import DTensor

    if any(isinstance(p, DTensor) for p in run.parameters.values()):
        raise UsageError(f"{what} needs the whole model in one process", "torchrun", "start it as one process")


class Hook:
    """Called by the loop at every step (from 1); a method of the kind `meta` makes one. Does nothing of itself.

    Hooks act in the order in which they are named. A method whose module declares LAST = True is refused before
    another one: it puts back at the next step what is done to its parameters behind it. One that declares BY_ELEMENT
    = True moves elements of a tensor by different shares of their way; an optimizer whose module has a function
    HOLDS(options) that says True, because it holds directions of a tensor where they are, is refused beside it.
    What a hook keeps from one step to the next is its `state`: plain data and tensors, which go into the state of the
    run and come back with it, so that a run that was resumed ends with the same bytes. Of parameters that several
    processes share, a hook sees the parts of its own; what it saves is whole. The module of a method (or objective)
    whose hook has a state says so by REMEMBERS, True or a function of its options: a checkpoint does not hold that,
    and `cpt anneal` does not go on from one.
    """

    # it moves parameters between the micro-batches of a step: several processes share each of these, so that there are
    # as many, of the same rows, as in one process
    between_micro_batches: bool = False

    def begin(self, step: int) -> None:
        """Before the first step of this process; `step` steps are done."""

    def before_step(self, step: int) -> None:
        """Before the first forward pass of the step."""

    def after_micro_batch(self, step: int) -> None:
        """The gradients of one more micro-batch of the step are added to those before."""

    def after_backward(self, step: int) -> None:
        """The gradients of the step are complete and not yet clipped."""

    def before_update(self, step: int) -> None:
        """The gradients are clipped and every optimizer group has its rate `lr`."""

    def after_update(self, step: int) -> None:
        """The parameters are updated; frozen rows are put back after this."""

    def metrics(self) -> dict[str, float]:
        """Numbers for the line of this step in metrics.jsonl."""
        return {}

    def state(self) -> dict[str, Any]:
        """What `restore` needs; plain data and tensors."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave, before `begin`."""
