"""The D-CPT law: loss over model size, tokens and share together."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from surgeon.errors import SurgeonError
from surgeon.laws.huber import DELTA, least_huber
from surgeon.laws.law import Array, Constants, Law, Losses, Points, Runs

NAMES = ("E", "A", "alpha", "B", "eta", "beta", "C", "epsilon", "gamma")
BILLION = 1e9  # parameters and tokens are in billions in the formula
# of the logarithms, in the units of `_scaled`: sizes relative to the losses, exponents, and the offset of the share
_SIZE, _EXPONENT, _OFFSET = (1e-6, 2.0), (1e-2, 5.0), (1e-4, 2.0)
_BOUNDS = (_SIZE, _SIZE, _EXPONENT, _SIZE, _EXPONENT, _EXPONENT, _SIZE, _OFFSET, _EXPONENT)


def dcpt(
    *,
    starts: Annotated[int, Field(ge=1)] = 32,
    seed: int = 0,
    delta: Annotated[float, Field(gt=0)] = DELTA,
) -> Law:
    """L(N, D, r) = E + A/N^alpha + B r^eta/D^beta + C/(r + epsilon)^gamma, for each of the two losses.

    N, D: parameters and tokens in billions. r: the domain's share for the domain loss, 1 minus it for the general
    loss. All nine constants are positive, so both losses fall with N and with D; how they go with r is up to the fit.
    starts: of the optimiser, drawn by seed. delta: of the Huber loss of log residuals. The delta, the number
    of starts and the bounds of the constants are ours and not checked against the paper. Raises SurgeonError on fewer
    different trainings than constants: the same one again, with another seed say, fixes no further constant. What
    nine of them fix is theirs to say: of one size, alpha stays open, and what is predicted of another is told as
    outside of the runs.
    Source: Que et al. 2024 (2406.01375)
    """

    def fit(runs: Runs) -> Constants:
        _check_different(runs.points)
        found = {}
        for name, losses in runs.losses.items():
            share = _share(name, runs.points.share)
            found[name] = _fit(runs.points, share, losses, starts, seed, delta)
        return found

    return Law(len(NAMES), fit, _predict)


def _predict(constants: Constants, points: Points) -> Losses:
    found: Losses = {}
    size, amount = points.parameters / BILLION, points.tokens / BILLION
    for name, c in constants.items():
        x = np.log([c[key] for key in NAMES])
        found[name] = _curve(x, np.log(size), np.log(amount), _share(name, points.share))[0]
    return found


def _check_different(points: Points) -> None:
    different = len(np.unique(np.stack([points.parameters, points.tokens, points.share]), axis=1).T)
    if different < len(NAMES):
        raise SurgeonError(
            f"a curve has {len(NAMES)} constants; different trainings among the runs: {different}",
            "the runs of law dcpt",
            "add runs of other sizes, numbers of tokens or shares",
        )


def _share(curve: str, domain: Array) -> Array:
    return domain if curve == "domain" else 1 - domain


def _fit(points: Points, share: Array, losses: Array, starts: int, seed: int, delta: float) -> dict[str, float]:
    """Fitted where log N and log D are around zero and the loss around one: A, B, C then have its size."""
    log_n, log_d = np.log(points.parameters / BILLION), np.log(points.tokens / BILLION)
    mid_n, mid_d, level = float(log_n.mean()), float(log_d.mean()), float(losses.mean())
    x = least_huber(
        lambda x: _curve(x, log_n - mid_n, log_d - mid_d, share),
        losses / level, [(float(np.log(a)), float(np.log(b))) for a, b in _BOUNDS], starts, seed, delta,
    )  # fmt: skip
    c = dict(zip(NAMES, np.exp(x).tolist(), strict=True))
    for key in ("E", "A", "B", "C"):
        c[key] *= level
    c["A"] *= float(np.exp(c["alpha"] * mid_n))
    c["B"] *= float(np.exp(c["beta"] * mid_d))
    return c


def _curve(x: Array, log_n: Array, log_d: Array, share: Array) -> tuple[Array, Array]:
    """Values [n] and their derivatives [n, 9] by x, the logarithms of the constants."""
    e, _, alpha, _, eta, beta, _, epsilon, gamma = np.exp(x)
    with np.errstate(divide="ignore"):  # a share of 0: its power is 0, and so is the whole term
        log_r = np.maximum(np.log(share), -1e6)
    by_size = np.exp(x[1] - alpha * log_n)
    by_tokens = np.exp(x[3] + eta * log_r - beta * log_d)
    log_offset = np.log(share + epsilon)
    by_share = np.exp(x[6] - gamma * log_offset)
    slopes = (
        np.full_like(share, e),
        by_size, -alpha * log_n * by_size,
        by_tokens, eta * log_r * by_tokens, -beta * log_d * by_tokens,
        by_share, -gamma * epsilon / (share + epsilon) * by_share, -gamma * log_offset * by_share,
    )  # fmt: skip
    return e + by_size + by_tokens + by_share, np.stack(slopes, axis=1)
