"""a x^s + b, least squares, for one exponent after the other: the other two constants are then linear."""

from __future__ import annotations

import numpy as np

from surgeon.laws.law import Array

CONSTANTS = ("a", "s", "b")
_EXPONENTS = (0.02, 60.0)  # sizes of s that are tried, of either sign: towards 0 the form becomes a + b log x
_GRID, _ZOOMS = 200, 12


def power(x: Array | float, a: float, s: float, b: float) -> Array:
    """a x^s + b, float64."""
    found: Array = a * np.power(np.asarray(x, dtype=np.float64), s) + b
    return found


def fit_power(x: Array, y: Array) -> dict[str, float]:
    """The constants of the least squared error over x, y float64 [n], x > 0, n >= 3 with three different x.

    The exponent is looked for on a grid of its logarithm for both signs, which is narrowed around the best.
    """
    largest = float(x.max())
    unit = x / largest
    best: tuple[float, float] = (np.inf, 1.0)
    for sign in (1.0, -1.0):
        low, high = np.log(_EXPONENTS[0]), np.log(_EXPONENTS[1])
        at = low
        for _ in range(_ZOOMS):
            logs = np.linspace(low, high, _GRID)
            errors = [_error(unit, y, sign * float(np.exp(v))) for v in logs]
            first = int(np.argmin(errors))
            at, step = float(logs[first]), (high - low) / (_GRID - 1)
            best = min(best, (errors[first], sign * float(np.exp(at))))
            low, high = max(np.log(_EXPONENTS[0]), at - step), min(np.log(_EXPONENTS[1]), at + step)
    s = best[1]
    a, b = _linear(unit, y, s)
    return {"a": float(a * largest ** (-s)), "s": s, "b": float(b)}


def _linear(x: Array, y: Array, s: float) -> tuple[float, float]:
    """a and b for an exponent. Around the means: at small s the two columns are nearly one."""
    column = x**s
    away = column - column.mean()
    square = float(away @ away)
    a = float(away @ (y - y.mean())) / square if square > 0 else 0.0
    return a, float(y.mean()) - a * float(column.mean())


def _error(x: Array, y: Array, s: float) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = _linear(x, y, s)
        error = float(((a * x**s + b - y) ** 2).sum())
    return error if np.isfinite(error) else np.inf
