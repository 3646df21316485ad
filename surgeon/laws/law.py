"""What a mixture law is: two curves, of the general and of the domain loss, over model size, tokens and share.

A law is a value of functions; its numbers are plain data, which a file holds and which the functions are given back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Constants = dict[str, dict[str, float]]
"""Name of a curve -> its constants by name."""
Losses = dict[str, Array]
"""`general` and `domain`: nats a token, float64 [points]."""
CURVES = ("general", "domain")


@dataclass(frozen=True)
class Points:
    """Trainings by what is chosen of them, float64 [points] each. share: of the domain in all tokens, 0 to 1."""

    parameters: Array
    tokens: Array
    share: Array

    @classmethod
    def at(cls, parameters: float, tokens: float | Array, share: float | Array) -> Points:
        """Of one model size; what is one number stands for as many points as the other has."""
        wide = np.broadcast_arrays(*(np.atleast_1d(np.float64(v)) for v in (parameters, tokens, share)))
        return cls(*wide)


@dataclass(frozen=True)
class Runs:
    """Finished trainings. losses: `general` and `domain`, held-out nats a token at the end. general_start: parameters
    of a model -> its general loss before the training, where the runs say."""

    points: Points
    losses: Losses
    general_start: dict[int, float]

    def __len__(self) -> int:
        return len(self.points.share)


@dataclass(frozen=True)
class Law:
    """A form of both curves.

    constants: how many each curve has; fewer runs are refused. fit(runs): the constants that describe the runs.
    predict(constants, points): both losses there. critical(constants, parameters, tokens, bound): the largest share
    whose general loss is at most `bound` (nats a token), None where no share is; without it the predicted curve is
    looked through (surgeon.laws.share). Runs come in an order that does not depend on how they were given.
    """

    constants: int
    fit: Callable[[Runs], Constants]
    predict: Callable[[Constants, Points], Losses]
    critical: Callable[[Constants, float, float, float], float | None] | None = None
