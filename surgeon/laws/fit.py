"""A law fitted to runs, with how well it describes them and how it goes with the share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from surgeon import registry
from surgeon.errors import SurgeonError
from surgeon.laws.huber import huber
from surgeon.laws.law import Array, Constants, Law, Points, Runs
from surgeon.laws.saved import Fit, Quality, Range, Trend

SHARES = 201  # between the least and the largest fitted share, at which a curve is looked at
FLAT = 1e-12  # relative: a smaller step is the rounding of a flat curve


def law_of(name: str, options: Mapping[str, Any]) -> Law:
    """The law of this name; unknown names and options are refused."""
    law: Law = registry.get("law", name).call({}, options)
    return law


def fit_law(runs: Runs, name: str, options: Mapping[str, Any]) -> Fit:
    """The fit. Raises SurgeonError on fewer runs than a curve has constants."""
    method = registry.get("law", name)
    law = law_of(name, options)
    if len(runs) < law.constants:
        raise SurgeonError(
            f"law {name} has {law.constants} constants a curve; runs given: {len(runs)}",
            "the runs",
            f"give at least {law.constants}, better twice as many",
        )
    constants = law.fit(runs)
    predicted = law.predict(constants, runs.points)
    return Fit(
        law=name,
        options=method.bind(options),
        runs=len(runs),
        constants=constants,
        quality={curve: quality(runs.losses[curve], predicted[curve]) for curve in runs.losses},
        over_share=_trends(law, constants, runs.points),
        range=Range(**{k: _span(getattr(runs.points, k)) for k in ("parameters", "tokens", "share")}),
        general_start=runs.general_start,
    )


def quality(measured: Array, predicted: Array) -> Quality:
    """R^2 is 1 where all runs are met exactly, also where they do not differ."""
    residual = float(((predicted - measured) ** 2).sum())
    spread = float(((measured - measured.mean()) ** 2).sum())
    r2 = 1 - residual / spread if spread > 0 else float(residual == 0)
    largest = float(np.abs(predicted / measured - 1).max())
    return Quality(r2=r2, huber=huber(measured, predicted), largest_error=largest)


def _trends(law: Law, constants: Constants, points: Points) -> dict[str, Trend]:
    """By curve: one direction at every fitted (size, tokens), or where it first turns."""
    shares = np.linspace(*_span(points.share), SHARES)
    places = sorted(set(zip(points.parameters.tolist(), points.tokens.tolist(), strict=True)))
    steps = [
        {curve: _steps(values) for curve, values in law.predict(constants, Points.at(n, d, shares)).items()}
        for n, d in places
    ]
    return {curve: _trend([s[curve] for s in steps], places, shares) for curve in steps[0]}


def _steps(values: Array) -> Array:
    step: Array = np.diff(values)
    return np.where(np.abs(step) <= FLAT * values[1:], 0.0, step)


def _trend(steps: list[Array], places: list[tuple[float, float]], shares: Array) -> Trend:
    if all((s <= 0).all() for s in steps):
        return Trend(goes="falls")
    if all((s >= 0).all() for s in steps):
        return Trend(goes="rises")
    first = np.sign(steps[0][np.flatnonzero(steps[0])[:1]]).sum()
    for (parameters, tokens), step in zip(places, steps, strict=True):
        against = np.flatnonzero(np.sign(step) == -first)
        if len(against):
            share = float(shares[against[0]])
            return Trend(goes="turns", turns_at={"parameters": parameters, "tokens": tokens, "share": share})
    return Trend(goes="turns")


def _span(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())
