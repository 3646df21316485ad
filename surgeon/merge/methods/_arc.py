"""The two factors of spherical interpolation."""

from __future__ import annotations

import math


def arc(t: float, cosine: float | None, straight: bool) -> tuple[float, float]:
    """(sin((1-t)A)/sin(A), sin(tA)/sin(A)) for the angle A; (1-t, t), the chord, where there is no arc or `straight`.

    From the mathematics library of C for single numbers: vector instructions differ by machine.
    """
    if cosine is None or straight:
        return 1 - t, t
    angle = math.acos(cosine)
    sine = math.sin(angle)
    return math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine
