"""Spherical interpolation between two models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surgeon.errors import UsageError

ROWWISE = False  # the angle is that of the whole tensor
COLLINEAR = 0.9995  # above this |cosine| the arc is its chord, as in mergekit


def slerp(
    tensors: list[Tensor],
    weights: list[float],
    place: dict[str, Any] | None,
    *,
    t: float | None = None,
    t_attention: list[float] | None = None,
    t_mlp: list[float] | None = None,
) -> Tensor:
    """sin((1-t)A)/sin(A) a + sin(tA)/sin(A) b, A the angle between the two tensors taken as vectors; float64.

    t = 0 is the first model and t = 1 the second; without `t` it is the second's share of the weights.
    t_attention, t_mlp: values of t over depth for these parts of the blocks, interpolated linearly between the
    first and the last block; `t` holds elsewhere. Nearly collinear tensors (|cos| > 0.9995) are interpolated
    linearly.
    Source: Shoemake 1985, Animating rotation with quaternion curves; curves as in Lu, Luu, Buehler (arXiv 2409.03444).
    """
    a, b = _two(tensors)
    share = _t(weights, place, t, t_attention, t_mlp)
    if share in (0.0, 1.0):
        return (b if share else a).clone()
    norms = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
    cosine = ((a * b).sum() / norms).clamp(-1, 1) if norms > 0 else torch.ones((), dtype=a.dtype)
    if cosine.abs() > COLLINEAR:
        return a * (1 - share) + b * share
    angle = torch.acos(cosine)
    return a * (torch.sin((1 - share) * angle) / torch.sin(angle)) + b * (torch.sin(share * angle) / torch.sin(angle))


def same_as(
    weights: list[float],
    place: dict[str, Any] | None,
    *,
    t: float | None = None,
    t_attention: list[float] | None = None,
    t_mlp: list[float] | None = None,
) -> int | None:
    """The number of the input that the result equals exactly, where there is one."""
    return {0.0: 0, 1.0: 1}.get(_t(_two(weights), place, t, t_attention, t_mlp))


def _t(
    weights: list[float],
    place: dict[str, Any] | None,
    t: float | None,
    t_attention: list[float] | None,
    t_mlp: list[float] | None,
) -> float:
    curve = {"attention": t_attention, "mlp": t_mlp}.get(place["part"]) if place else None
    if curve is not None and place is not None:
        return _curve(curve, place["block"] / max(place["blocks"] - 1, 1))
    if t is None:
        if min(weights) < 0 or sum(weights) == 0:
            raise UsageError(
                "the weights give no share", "MODEL=WEIGHT", "give two that are not negative, or --option t"
            )
        t = weights[1] / sum(weights)
    if not 0 <= t <= 1:
        raise UsageError(f"t={t} is not in [0, 1]", "--option t", "0 is the first model, 1 the second")
    return t


def _curve(values: list[float], position: float) -> float:
    """Piecewise-linear through `values` spread evenly over 0..1."""
    if not values or min(values) < 0 or max(values) > 1:
        raise UsageError(f"the curve {values} is not in [0, 1]", "--option t_attention, t_mlp", "such as 0,0.5,1")
    at = position * (len(values) - 1)
    low = min(int(at), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def _two(items: list[Any]) -> list[Any]:
    if len(items) != 2:
        raise UsageError(f"slerp is between two models, {len(items)} are given", "surgeon merge slerp", "give two")
    return items
