"""The lengths of a schedule's phases, and how far a step is into one."""

from __future__ import annotations

from surgeon.errors import UsageError

ROUNDING = 1e-9  # of the run: shares such as 0.1 + 0.7 + 0.2 do not add up to 1 exactly


def phase_steps(option: str, length: float, total: int, called: str = "") -> float:
    """Steps of a phase given as a share of `total` (below 1) or as a number of steps (from 1 on).

    A share is not rounded: 1 % of 50 steps is half a step long, and so over at the first one.
    option: the name under which a person sets it, called: what to call it. Raises UsageError where it does not fit.
    """
    steps = length * total if length < 1 else length
    if not 0 <= steps <= total:  # a length that is no number fits nowhere
        raise UsageError(
            f"a {called or option} of {length:g} does not fit into a run of {total} steps",
            f"--option {option}",
            "give a share below 1, such as 0.01, or a number of steps up to the run's",
        )
    return steps


def check_fit(total: int, **phases: float) -> None:
    """Refuse phases (in steps, by option) that are longer together than the run."""
    if sum(phases.values()) > total * (1 + ROUNDING):
        lengths = " + ".join(f"{option} {steps:g}" for option, steps in phases.items())
        raise UsageError(
            f"{lengths} steps are longer than the run of {total} steps",
            f"--option {list(phases)[-1]}",
            "make one of them shorter",
        )


def check_fall(total: int, rise: float) -> None:
    """Refuse a warm-up that leaves a schedule no step to come down to its end in: it would end at the peak."""
    if rise >= total:
        raise UsageError(
            f"a warm-up of {rise:g} steps leaves none of the run's {total} to come down from the peak",
            "--option warmup",
            "make it shorter, or use --schedule constant, which stays at the peak",
        )


def progress(step: float, start: float, end: float) -> float:
    """How far `step` is into the phase from `start` to `end`: 0 up to its start, exactly 1 from its end on.

    A phase without length is over right behind its start.
    """
    if step <= start:
        return 0.0
    return 1.0 if step >= end else (step - start) / (end - start)
