"""How much each trained element matters for a text: the diagonal of the empirical Fisher information at the start."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from surgeon.data.pack import IGNORED, Window
from surgeon.errors import SurgeonError
from surgeon.train import attention
from surgeon.train.batch import collate
from surgeon.train.gradient import derivative
from surgeon.train.hook import Run
from surgeon.train.outline import Outline
from surgeon.train.probes import packed

TOKENS = 20_000


def of_probe(run: Run, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """`fisher` of the options `probe` and `tokens` of a method; nothing for one of no strength."""
    return {} if options["strength"] == 0 else fisher(run, options["probe"], int(options["tokens"]))


def fisher(run: Run, probe: str, tokens: int) -> dict[str, Tensor]:
    """By name, float32: (sum over windows of the square of the gradient of the window's loss) / (number of labels).

    A window's loss is the sum of its nats, so this estimates a mean over tokens: the cross terms between tokens of a
    window have the mean zero under the model's own distribution. Labels are the text's (empirical Fisher), one window
    at a time whatever the micro-batch, in evaluation and float32; the weights are those at the start. The windows are
    the first of one epoch over the probe that hold `tokens` tokens, all of it where it is shorter. Deterministic on a
    CPU, so a resumed run measures the same bytes again in place of keeping them.
    Several processes that share the model all take the same windows, and it is divided as the parameters are: what
    they reduce is a sum of gradients, and of two windows' the square is another one. So it is no faster with more of
    them; and products are in the run's type there, because that is the type in which the weights are gathered.
    Raises SurgeonError on a probe without labels.
    """
    held, labels = labelled(run, probe, tokens)
    names = list(run.parameters)
    sums = {n: torch.zeros_like(p, dtype=torch.float32, requires_grad=False) for n, p in run.parameters.items()}
    model, was_training = run.model, run.model.training
    model.eval()
    try:
        with torch.enable_grad(), torch.autocast(run.device.type, enabled=False):
            for window in held:
                batch, arguments = attention.arranged(collate([window], run.device), run.forward.mode)
                found = derivative(run, partial(run.forward.nats, batch, arguments), names)
                for name, gradient in found.items():  # without an expert that no token of the window went to
                    sums[name] += gradient.float().square()
    finally:
        model.train(was_training)
    return {name: total / labels for name, total in sums.items()}


def fits(outline: Outline, options: Mapping[str, Any]) -> None:
    """Refuse, before the weights are read, a probe of a method (options `probe`, `tokens`, `strength`) that `fisher`
    refuses."""
    if options["strength"] != 0:
        labelled(outline, options["probe"], int(options["tokens"]))


def labelled(run: Run | Outline, probe: str, tokens: int) -> tuple[list[Window], int]:
    """(the windows, how many labels they have). Raises SurgeonError where they have none."""
    held = probe_windows(run, probe, tokens)
    labels = sum(int((w.labels != IGNORED).sum()) for w in held)
    if not labels:
        raise SurgeonError("the probe has nothing to learn", probe, "look at its answers")
    return held, labels


def probe_windows(run: Run | Outline, probe: str, tokens: int) -> list[Window]:
    held_by = packed(run, probe)
    number, wanted = 0, min(tokens, held_by.tokens.num_tokens)
    held: list[Window] = []
    while sum(w.num_tokens for w in held) < wanted:
        held.append(held_by.window(number))
        number += 1
    return held
