"""Spherical interpolation between two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from surgeon.errors import UsageError
from surgeon.merge.methods._arc import arc
from surgeon.merge.methods._options import second_share
from surgeon.merge.methods._sums import cosine, gram

ROWWISE = True
COLLINEAR = 0.9995  # above this |cosine| the arc is its chord, as in mergekit


def facts(
    chunks: Callable[[], Iterator[list[Tensor]]], weights: list[float], *, t: float | None
) -> tuple[float, float]:
    """The factors of the two tensors: the angle is that of the whole tensors."""
    share = _t(weights, t)
    if share in (0.0, 1.0):
        return 1 - share, share
    ((aa, ab), (_, bb)) = gram(chunks())
    cos = cosine(ab, aa, bb)
    return arc(share, cos, cos is not None and abs(cos) > COLLINEAR)


def slerp(
    tensors: list[Tensor], weights: list[float], facts: tuple[float, float], *, t: float | None = None
) -> Tensor:
    """sin((1-t)A)/sin(A) a + sin(tA)/sin(A) b, A the angle between the two tensors taken as vectors; float64.

    t = 0 is the first model and t = 1 the second; without `t` it is the second's share of the weights. Nearly
    collinear tensors (|cos| > 0.9995) and a tensor of zeros have no arc: they are interpolated linearly. mergekit
    takes a tensor of a length below 1e-8 for one at a right angle.
    Source: Shoemake 1985, Animating rotation with quaternion curves, section 3.3; of models: Lu, Luu, Buehler 2024 (arXiv 2409.03444).
    """  # noqa: E501 - the source is one line
    if (number := same_as(weights, t=t)) is not None:
        return tensors[number].clone()
    return tensors[0] * facts[0] + tensors[1] * facts[1]


def same_as(weights: list[float], *, t: float | None = None) -> int | None:
    """The number of the input that the result equals exactly, where there is one."""
    return {0.0: 0, 1.0: 1}.get(_t(weights, t))


def _t(weights: list[float], t: float | None) -> float:
    if t is None:
        return second_share("slerp", weights)
    second_share("slerp", [1.0] * len(weights))  # there are two
    if any(weight != 1 for weight in weights):
        raise UsageError("the weights and t both say the second's share", "--option t", "give one of the two")
    if not 0 <= t <= 1:
        raise UsageError(f"t={t} is not in [0, 1]", "--option t", "0 is the first model, 1 the second")
    return t
