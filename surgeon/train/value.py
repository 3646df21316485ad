"""What a text is worth for another one: the inner product of their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.data.pack import IGNORED, Window
from surgeon.errors import SurgeonError, UsageError
from surgeon.train import attention
from surgeon.train.batch import collate
from surgeon.train.hook import Run
from surgeon.train.trainable import block_prefix

Gradients = Mapping[str, Tensor]


@dataclass(frozen=True)
class Value:
    """value: g_down . g_pre, in nats squared a label over the units of the parameters squared: a step of plain SGD of
    rate r on the one text lowers the mean loss of the other by r times this, to first order. cosine: of the two."""

    value: float
    cosine: float


def value(down: Gradients, pre: Gradients) -> Value:
    """Of two gradients by name; sums in float64."""
    dot = sum(float((down[n].double() * pre[n].double()).sum()) for n in down)
    norms = [sum(float(g.double().square().sum()) for g in held.values()) ** 0.5 for held in (down, pre)]
    return Value(dot, dot / (norms[0] * norms[1]) if norms[0] and norms[1] else 0.0)


def mean_gradient(run: Run, windows: Sequence[Window], names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Of the mean loss of the next token, nats a label, in trained parameters (all of them, or `names`); by name.

    In evaluation and float32, a window at a time; the gradients of the training and its random numbers stay as they
    are, and rows that are frozen have none. Raises SurgeonError where there is no label.
    """
    chosen = list(run.parameters if names is None else names)
    moving = [run.parameters[n] for n in chosen]
    labels = sum(int((w.labels != IGNORED).sum()) for w in windows)
    if not labels:
        raise SurgeonError("the text has nothing to learn", "a probe of values", "look at its answers")
    sums = [torch.zeros_like(p, requires_grad=False) for p in moving]
    model, was_training = run.model, run.model.training
    model.eval()
    try:
        with torch.enable_grad(), torch.autocast(run.device.type, enabled=False):
            for window in windows:
                batch, arguments = attention.arranged(collate([window], run.device), run.forward.mode)
                nats = run.forward.nats(batch, arguments) / labels
                for total, gradient in zip(sums, torch.autograd.grad(nats, moving, allow_unused=True), strict=True):
                    if gradient is not None:  # an expert that no token of the window went to
                        total += gradient
    finally:
        model.train(was_training)
    for name, total in zip(chosen, sums, strict=True):
        if name in run.rows:
            total[~run.rows[name]] = 0
    return dict(zip(chosen, sums, strict=True))


def last_blocks(run: Run, count: int, what: str) -> list[str]:
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
