"""The gradient of some windows beside a run, which does not notice it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from surgeon.data.pack import IGNORED, Window
from surgeon.errors import SurgeonError
from surgeon.train.hook import Run
from surgeon.train.outline import Outline


@contextmanager
def gradient(run: Run, windows: Sequence[Window]) -> Iterator[dict[str, Tensor]]:
    """The gradient of the mean loss of the windows under the run's objective, by name: float32, what this process
    holds of it, zero in frozen rows; without a name where the loss does not depend on a tensor.

    As the run's own steps take it: micro-batch by micro-batch, in training mode (dropout, if any, from the run's
    seed). It is to be used inside the `with` only: behind it the gradients that the run holds, its random numbers and
    the mode are as before, so that a run with a probe ends with the bytes of one without. Not for the time between a
    step's backward pass and its update under a sharded model.
    """
    world, parameters = run.world, run.parameters
    held = {name: p.grad for name, p in parameters.items()}
    was_training = run.model.training
    targets = max(1, sum(_targets(w) for w in windows))
    mine = world.share(windows, run.micro_batch)
    try:
        with torch.random.fork_rng([run.device] if run.device.type == "cuda" else []):
            torch.manual_seed(run.seed)
            run.model.train()
            _forget(parameters)
            for at in range(0, len(mine), run.micro_batch):
                part = mine[at : at + run.micro_batch]
                # run.loss is a mean over the part; sharded gradients are means over the ranks
                share = max(1, sum(_targets(w) for w in part)) / targets
                (run.loss(part) * share * world.size).backward()
            found = {name: world.local(p.grad) for name, p in parameters.items() if p.grad is not None}
            for name, mask in run.rows.items():
                if name in found:
                    found[name][~world.local_rows(mask, parameters[name])] = 0
            yield found
    finally:
        for name, parameter in parameters.items():
            parameter.grad = held[name]
        run.model.train(was_training)


def derivative(run: Run, loss: Callable[[], Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Of a scalar in trained parameters, by name, divided as they are; without a name where it does not depend on it.
    The gradients that the run holds stay as they are.

    loss: makes it, with a graph; in several processes all call it, and it is the mean of theirs that is derived.
    """
    parameters = run.parameters
    if run.world.size == 1:
        found = torch.autograd.grad(loss(), [parameters[n] for n in names], allow_unused=True)
        return {n: g for n, g in zip(names, found, strict=True) if g is not None}
    held = {name: p.grad for name, p in parameters.items()}
    try:
        _forget(parameters)
        loss().backward()  # the parts are in no graph: torch gathers them, and divides the gradients of the whole
        return {n: g for n in names if (g := parameters[n].grad) is not None}
    finally:
        for name, parameter in parameters.items():
            parameter.grad = held[name]


def ahead(run: Run | Outline, step: int, rows: int, *, replay: bool) -> list[Window]:
    """The next windows that the run reads from step `step` (from 1) on, of its replay or of its new data; all of one
    length: where a length curriculum goes on to longer rows in the midst of them, those from there on.

    Raises SurgeonError where it reads no more of them in as many steps as it has.
    """
    found: list[Window] = []
    for number in range(step - 1, step - 1 + run.total):
        more = [window for window in run.windows(number) if window.replay is replay]
        if found and more and len(found[0].ids) != len(more[0].ids):
            found = []
        found += more
        if len(found) >= rows:
            return found[:rows]
    what = "replay" if replay else "new data"
    raise SurgeonError(
        f"{rows} windows of {what} are wanted from step {step} on, and the next {run.total} steps hold {len(found)}",
        "--meta",
        "ask for fewer rows, train for more steps, or leave both kinds of text a share of the mixture",
    )


def dot(run: Run, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The inner product of two gradients of a run, over all processes; products in float32, summed in float64."""
    total = torch.zeros((), dtype=torch.float64, device=run.device)
    for name in one:
        if name in other:
            total += (one[name] * other[name]).sum(dtype=torch.float64)
    return float(run.world.sum(total))


def _targets(window: Window) -> int:
    return int((window.labels != IGNORED).sum())


def _forget(parameters: Mapping[str, torch.nn.Parameter]) -> None:
    for parameter in parameters.values():
        parameter.grad = None
