"""The shapes in which a learning rate falls from one level to another, exact at both ends."""

from __future__ import annotations

import math
from typing import Literal

from surgeon.errors import UsageError

Shape = Literal["sqrt", "linear", "cosine", "exponential"]


def decayed(done: float, start: float, end: float, shape: Shape) -> float:
    """The level after the share `done` of a fall from `start` to `end`; `start` at 0 and `end` at 1, to the last bit.

    With s and e for start and end and r for done: sqrt e + (s - e)(1 - sqrt r), linear e + (s - e)(1 - r),
    cosine e + (s - e)(1 + cos(pi r)) / 2, exponential s (e / s)^r. float64.
    Raises UsageError on an end that is not in [0, start], and on an exponential fall to 0, which it never reaches.
    """
    if not 0 <= end <= start:
        raise UsageError(
            f"a decay from {start:g} of the peak does not end at {end:g} of it",
            "--option min_ratio",
            f"give a share of the peak from 0 to {start:g}",
        )
    if shape == "exponential" and end == 0:
        raise UsageError(
            "an exponential decay never comes to 0", "--option min_ratio", "give for example 0.01, or another shape"
        )
    if done <= 0:
        return start
    if done >= 1:
        return end
    if shape == "exponential":
        return start * (end / start) ** done
    level = {"sqrt": 1 - math.sqrt(done), "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[shape]
    return end + (start - end) * level
