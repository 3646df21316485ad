"""The CMR law: a power law in the share for each number of tokens, and one of the critical share in the tokens."""

from __future__ import annotations

import numpy as np

from surgeon.errors import SurgeonError
from surgeon.laws.law import CURVES, Array, Constants, Law, Losses, Points, Runs
from surgeon.laws.power import CONSTANTS, fit_power, power
from surgeon.laws.share import largest_share

TOKEN_UNIT = 2e8  # T of the paper: 20 B tokens are T = 100


def cmr() -> Law:
    """Loss = a R^s + b over the domain's share R at each number of tokens; critical share R(T) = a T^s + b.

    The critical share at T tokens is the largest R whose general loss stays within the bound. At a number of tokens
    that the runs have, it is read off the curve in R; at another one, R(T) is fitted through those that lie inside
    (0, 1), of which it takes three. T is in units of 0.2 B tokens. For one model size.
    The paper first fits the general loss over T at each R (up, then down) and needs checkpoints along each run; here
    every run gives its end, since a run that is cut short has not let its learning rate fall.
    Source: Gu et al. 2024 (2407.17467)
    """
    return Law(len(CONSTANTS), _fit, _predict, _critical)


def critical_ratio(tokens: float, a: float, s: float, b: float) -> float:
    """R_CMR of the published form, for a number of tokens."""
    return float(power(tokens / TOKEN_UNIT, a, s, b))


def _fit(runs: Runs) -> Constants:
    _one_size(runs.points.parameters)
    found: Constants = {}
    for tokens in np.unique(runs.points.tokens):
        here = runs.points.tokens == tokens
        shares = runs.points.share[here]
        if len(np.unique(shares)) < len(CONSTANTS):
            raise SurgeonError(
                f"{len(np.unique(shares))} shares at {tokens:,.0f} tokens do not fix the three constants of a curve",
                "the runs of law cmr",
                "add runs of the same number of tokens at other shares, or leave these out",
            )
        if shares.min() <= 0:
            raise SurgeonError(
                "a share of 0 has no power law", f"the runs of {tokens:,.0f} tokens", "leave these runs out for cmr"
            )
        for curve in CURVES:
            found[_name(curve, float(tokens))] = fit_power(shares, runs.losses[curve][here])
    return found


def _predict(constants: Constants, points: Points) -> Losses:
    found: Losses = {curve: np.empty(len(points.share)) for curve in CURVES}
    for tokens in np.unique(points.tokens):
        here = points.tokens == tokens
        if _name("general", float(tokens)) not in constants:
            raise SurgeonError(
                f"law cmr has no curve at {tokens:,.0f} tokens",
                "the fitted numbers of tokens",
                f"give one of {', '.join(f'{t:,.0f}' for t in _fitted(constants))}, or use law dcpt",
            )
        for curve in CURVES:
            found[curve][here] = _along(constants[_name(curve, float(tokens))], points.share[here])
            if not np.isfinite(found[curve][here]).all():
                raise SurgeonError(
                    f"the power law of the {curve} loss falls with the share and is infinite at a share of 0",
                    "the share",
                    "give one above 0",
                )
    return found


def _critical(constants: Constants, parameters: float, tokens: float, bound: float) -> float | None:
    found = {t: _at(constants, t, bound) for t in _fitted(constants)}
    if tokens in found:
        return found[tokens]
    inside = {t: r for t, r in found.items() if r is not None and 0 < r < 1}
    if len(inside) < len(CONSTANTS):
        told = ", ".join(f"{t:,.0f} tokens: {'none' if r is None else f'{r:.4g}'}" for t, r in found.items())
        raise SurgeonError(
            f"the critical share at {tokens:,.0f} tokens needs three fitted ones where it lies inside (0, 1)",
            told,
            "give a fitted number of tokens, another bound, or fit runs of more numbers of tokens",
        )
    law = fit_power(np.array(list(inside)) / TOKEN_UNIT, np.array(list(inside.values())))
    share = critical_ratio(tokens, **law)
    return min(share, 1.0) if share > 0 else None  # above 1: every share keeps within the bound


def _at(constants: Constants, tokens: float, bound: float) -> float | None:
    curve = constants[_name("general", tokens)]
    return largest_share(lambda r: _along(curve, r), bound)


def _along(curve: dict[str, float], share: Array) -> Array:
    """At a share of 0 a falling power is infinite; where nothing falls (a = 0) the loss is b there too."""
    if curve["a"] == 0:
        return np.full_like(share, curve["b"])
    with np.errstate(divide="ignore"):
        return power(share, **curve)


def _one_size(parameters: Array) -> None:
    sizes = np.unique(parameters)
    if len(sizes) > 1:
        raise SurgeonError(
            f"the runs are of {len(sizes)} model sizes",
            ", ".join(f"{size:,.0f}" for size in sizes),
            "law cmr is for one size: give the runs of one, or use law dcpt",
        )


def _name(curve: str, tokens: float) -> str:
    return f"{curve} at {tokens:.0f} tokens"


def _fitted(constants: Constants) -> list[float]:
    """The numbers of tokens that have a curve, ascending."""
    return sorted(float(name.split()[2]) for name in constants if name.startswith("general "))
