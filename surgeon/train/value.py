"""What a text is worth for another one: the inner product of their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from surgeon.data.pack import IGNORED, Window
from surgeon.errors import SurgeonError, UsageError
from surgeon.train import attention
from surgeon.train.batch import collate
from surgeon.train.gradient import derivative
from surgeon.train.hook import Run
from surgeon.train.outline import Outline
from surgeon.train.parallel import SOLO, World
from surgeon.train.trainable import block_prefix

Gradients = Mapping[str, Tensor]


@dataclass(frozen=True)
class Value:
    """value: g_down . g_pre, in nats squared a label over the units of the parameters squared: a step of plain SGD of
    rate r on the one text lowers the mean loss of the other by r times this, to first order. cosine: of the two."""

    value: float
    cosine: float


def value(down: Gradients, pre: Gradients, world: World = SOLO) -> Value:
    """Of two gradients by name, of which each process of `world` has its part; sums in float64."""
    dot = _total(world, sum(float((down[n].double() * pre[n].double()).sum()) for n in down))
    squares = [sum(float(g.double().square().sum()) for g in held.values()) for held in (down, pre)]
    norms = [_total(world, square) ** 0.5 for square in squares]
    return Value(dot, dot / (norms[0] * norms[1]) if norms[0] and norms[1] else 0.0)


def mean_gradient(run: Run, windows: Sequence[Window], names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Of the mean loss of the next token, nats a label, in trained parameters (all of them, or `names`); by name.

    In evaluation and float32, a window at a time; the gradients of the training and its random numbers stay as they
    are, and rows that are frozen have none. Several processes share the windows; each gets its part of the gradient,
    and products are in the run's type there. Raises SurgeonError where there is no label.
    """
    chosen = list(run.parameters if names is None else names)
    world = run.world
    labels = sum(int((w.labels != IGNORED).sum()) for w in windows)
    if not labels:
        raise SurgeonError("the text has nothing to learn", "a probe of values", "look at its answers")
    sums = {n: torch.zeros_like(world.local(run.parameters[n]), requires_grad=False) for n in chosen}
    model, was_training = run.model, run.model.training
    model.eval()
    try:
        with torch.enable_grad(), torch.autocast(run.device.type, enabled=False):
            for window in world.share(windows, 1):
                loss = partial(_share_of_mean, run, window, labels)
                for name, gradient in derivative(run, loss, chosen).items():
                    sums[name] += world.local(gradient)
    finally:
        model.train(was_training)
    for name, total in sums.items():
        if name in run.rows:
            total[~world.local_rows(run.rows[name], run.parameters[name])] = 0
    return sums


def _share_of_mean(run: Run, window: Window, labels: int) -> Tensor:
    """What a window adds to a mean over so many labels; the mean over the processes is what is derived."""
    batch, arguments = attention.arranged(collate([window], run.device), run.forward.mode)
    nats = run.forward.nats(batch, arguments) / labels
    return nats if run.world.size == 1 else nats * run.world.size


def _total(world: World, part: float) -> float:
    return part if world.size == 1 else float(world.sum(torch.tensor(part, dtype=torch.float64)))


def last_blocks(run: Run | Outline, count: int, what: str) -> list[str]:
    """The trained parameters of the last `count` blocks. Raises UsageError where there is none."""
    prefix = block_prefix(run.model)
    depth = run.model.config.get_text_config().num_hidden_layers
    last = tuple(f"{prefix}{number}." for number in range(max(0, depth - count), depth))
    found = [name for name in run.parameters if name.startswith(last)]
    if not found:
        raise UsageError(
            f"{what} compares gradients in the last {count} blocks, and none of them is trained",
            what,
            "train them, or name more blocks",
        )
    return found
