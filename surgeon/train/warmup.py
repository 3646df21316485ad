"""The length of a warm-up, as schedules take it."""

from __future__ import annotations

from surgeon.errors import UsageError


def warmup_steps(warmup: float, total: int) -> float:
    """Steps of a warm-up given as a share of `total` (below 1) or as a number of steps (from 1 on).

    A share is not rounded: the warm-up of 1 % of 50 steps is half a step long, and so over at the first one.
    """
    steps = warmup * total if warmup < 1 else warmup
    if warmup < 0 or steps > total:
        raise UsageError(
            f"a warm-up of {warmup:g} does not fit into a run of {total} steps",
            "--option warmup",
            "give a share below 1, such as 0.01, or a number of steps up to the run's",
        )
    return steps
