"""A schedule as transformers' Trainer names it, and how far its numbers are from ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from surgeon.errors import UsageError
from surgeon.registry import Method
from surgeon.train.warmup import warmup_steps

_SHAPES = {"sqrt": "1-sqrt", "linear": "linear", "cosine": "cosine"}


@dataclass(frozen=True)
class TrainerSchedule:
    """name: of the SchedulerType. options: its lr_scheduler_kwargs. warmup: whole updates. largest_difference: of
    the factor of the learning rate over the updates of the run, at equal positions (see `shift`)."""

    name: str
    options: dict[str, Any]
    warmup: int
    largest_difference: float


def trainer_schedule(method: Method, options: dict[str, Any], lr: float, total: int) -> TrainerSchedule:
    """The counterpart of a schedule in transformers.optimization (get_scheduler); its warm-up is of whole updates.

    Raises UsageError for a schedule that has none. Both sides are evaluated at every update of the run, so what is
    said of their difference is measured.
    """
    translate = _TRANSLATED.get(method.name)
    if translate is None:
        raise UsageError(
            f"the schedule {method.name!r} has no counterpart in transformers' Trainer",
            f"--schedule {method.name}",
            f"use one of {', '.join(_TRANSLATED)}, or train with `surgeon cpt`",
        )
    warmup = round(warmup_steps(options["warmup"], total))
    name, more = translate(options, lr, total, warmup)
    factor = _factor(name, more, lr, total, warmup)

    def ours(step: int) -> float:
        supply = {"step": step, "total": total}
        return float(method.function(*(supply[word] for word in method.supplied), **options))

    apart = max(abs(factor(step) - ours(step)) for step in range(1, total + 1))
    return TrainerSchedule(name, more, warmup, apart)


def _constant(options: dict[str, Any], lr: float, total: int, warmup: int) -> tuple[str, dict[str, Any]]:
    return ("constant_with_warmup" if warmup else "constant"), {}


def _linear(options: dict[str, Any], lr: float, total: int, warmup: int) -> tuple[str, dict[str, Any]]:
    least = options["min_ratio"]
    return ("polynomial", {"lr_end": lr * least, "power": 1.0}) if least else ("linear", {})


def _rewarm_cosine(options: dict[str, Any], lr: float, total: int, warmup: int) -> tuple[str, dict[str, Any]]:
    return "cosine_with_min_lr", {"min_lr_rate": options["min_ratio"]}


def _wsd(options: dict[str, Any], lr: float, total: int, warmup: int) -> tuple[str, dict[str, Any]]:
    decay = min(round(options["decay"] * total), total - warmup)
    return "warmup_stable_decay", {
        "num_decay_steps": decay,
        "decay_type": _SHAPES[options["shape"]],
        "min_lr_ratio": options["min_ratio"],
    }


_TRANSLATED = {"constant": _constant, "linear": _linear, "rewarm_cosine": _rewarm_cosine, "wsd": _wsd}


def _factor(name: str, more: dict[str, Any], lr: float, total: int, warmup: int) -> Callable[[int], float]:
    """Transformers' own function of the update's number."""
    import torch
    from transformers.optimization import get_scheduler

    peak = lr or 1.0  # a rate of zero is zero at every update, whatever the factor
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    try:
        scheduler = get_scheduler(name, optimizer, warmup, total, more)
    except ValueError as error:
        raise UsageError(f"transformers refuses the schedule: {error}", "--schedule", "change its options") from error
    found: Callable[[int], float] = scheduler.lr_lambdas[0]
    return found
