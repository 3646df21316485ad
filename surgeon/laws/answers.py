"""What a fitted law is asked: the losses of a training, and the share to train at."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.errors import SurgeonError, UsageError
from surgeon.laws.fit import law_of
from surgeon.laws.law import CURVES, Array, Law, Points
from surgeon.laws.saved import Fit, Range
from surgeon.laws.share import largest_share, least_domain


def predict(fit: Fit, parameters: float, tokens: float, share: float) -> dict[str, Any]:
    """Both losses (nats a token) of a training; `outside` says which of its values lie outside of the fitted range."""
    found = _law(fit).predict(fit.constants, Points.at(parameters, tokens, share))
    return {
        "law": fit.law, "parameters": parameters, "tokens": tokens, "share": share,
        "general": float(found["general"][0]), "domain": float(found["domain"][0]),
        "outside": outside(fit.range, parameters, tokens, share),
    }  # fmt: skip


def bound_of(
    fit: Fit, parameters: int, start: float | None, rise: float | None, eps: float | None
) -> tuple[float, float] | None:
    """(general loss at the start, what it may become): start (1 + rise) or start + eps; None where neither is given.

    start: given by a person, else what the runs of this model size say.
    """
    if rise is not None and eps is not None:
        raise UsageError("two bounds are given", "--max-general-rise and --eps", "leave one out")
    if rise is None and eps is None:
        return None
    if start is None:
        start = fit.general_start.get(parameters)
    if start is None:
        raise UsageError(
            f"the general loss before the training is not known for {parameters:,} parameters",
            "--general-start",
            "give it in nats a token, as `surgeon evaluate` prints it",
        )
    return start, (start + eps if eps is not None else start * (1 + (rise or 0.0)))


def optimum(fit: Fit, parameters: int, tokens: int, bound: float) -> dict[str, Any]:
    """The largest share whose predicted general loss is at most `bound` (nats a token); `share` is None where no
    share is."""
    law = _law(fit)
    if law.critical is not None:
        share = law.critical(fit.constants, parameters, tokens, bound)
    else:
        share = largest_share(lambda r: law.predict(fit.constants, Points.at(parameters, tokens, r))["general"], bound)
    return _answer(fit, law, parameters, tokens, share)


def optimum_of_texts(fit: Fit, parameters: int, domain_tokens: int, bound: float | None) -> dict[str, Any]:
    """The share of the least domain loss where all D_d domain tokens are read once, D = D_d / r tokens in all.

    bound: of the general loss; only shares within it are chosen from.
    """
    law = _law(fit)

    def at(curve: str, shares: Array) -> Array:
        return law.predict(fit.constants, Points.at(parameters, domain_tokens / shares, shares))[curve]

    def allowed(shares: Array) -> NDArray[np.bool_]:
        return np.ones(len(shares), bool) if bound is None else at("general", shares) <= bound

    share = least_domain(lambda r: at("domain", r), allowed)
    return _answer(fit, law, parameters, None if share is None else round(domain_tokens / share), share)


def _law(fit: Fit) -> Law:
    """The law of a fit that has its constants, as its least point shows: a file may have been changed by hand."""
    law, span = law_of(fit.law, fit.options), fit.range
    place = Points.at(span.parameters[0], span.tokens[0], span.share[0])
    try:
        found = law.predict(fit.constants, place)
        _ = [found[curve] for curve in CURVES]
    except KeyError as missing:
        raise SurgeonError(
            f"the fit has no {missing.args[0]!r}, which law {fit.law} has", "constants", "fit the law anew"
        ) from missing
    return law


def _answer(fit: Fit, law: Law, parameters: int, tokens: int | None, share: float | None) -> dict[str, Any]:
    """With the losses at the share. A law whose critical share goes further than its curves gives none there, and
    `outside` says so."""
    losses: dict[str, float | None] = {"general": None, "domain": None}
    told = outside(fit.range, parameters, tokens, share)
    if tokens is not None and share is not None:
        try:
            found = law.predict(fit.constants, Points.at(parameters, tokens, share))
            losses |= {curve: float(values[0]) for curve, values in found.items()}
        except SurgeonError as error:
            told.append(f"no losses are predicted: {error.problem}")
    return {"law": fit.law, "parameters": parameters, "tokens": tokens, "share": share} | losses | {"outside": told}


def outside(fitted: Range, parameters: float, tokens: float | None, share: float | None) -> list[str]:
    """What lies outside of the fitted range, a sentence each."""
    told = []
    for name, value in (("parameters", parameters), ("tokens", tokens), ("share", share)):
        low, high = getattr(fitted, name)
        if value is not None and not low <= value <= high:
            span = f"{_number(low)} to {_number(high)}" if low < high else f"{_number(low)} alone"
            told.append(f"{name} {_number(value)}: the runs have {span}")
    return told


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.6g}"
