"""What each new token saves, and where to stop."""

from __future__ import annotations

from collections.abc import Sequence

STRIDE = 1000  # tokens over which --stop-gain looks ahead
_POINTS = 50


def curve(tokens: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(tokens added, tokens of the corpus then) at no more than 51 numbers of added tokens, closer together at the
    start, where most is saved. `tokens`: of the corpus with 0, 1, 2, ... added."""
    last = len(tokens) - 1
    at = sorted({round(last * (i / _POINTS) ** 2) for i in range(_POINTS + 1)})
    return tuple((k, tokens[k]) for k in at)


def stop_at(tokens: Sequence[int], most: int, gain: float) -> int:
    """The first number of added tokens from which the next 1,000 (or all there are) save less than `gain` per cent of
    the corpus's old tokens; `most` where none comes before it."""
    least = gain / 100 * tokens[0]
    last = len(tokens) - 1
    return next((k for k in range(min(most, last)) if tokens[k] - tokens[min(k + STRIDE, last)] < least), most)
