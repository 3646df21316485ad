"""The least Huber loss of log residuals, from many seeded starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from surgeon.laws.law import Array

Curve = Callable[[Array], tuple[Array, Array]]
"""Constants float64 [k] -> (values float64 [n], derivatives float64 [n, k])."""
DELTA = 1e-3


def huber(measured: Array, predicted: Array, delta: float = DELTA) -> float:
    """Mean over the runs of the Huber loss of log(predicted) - log(measured)."""
    loss, _ = _loss(np.log(predicted) - np.log(measured), delta)
    return float(loss.mean())


def least_huber(
    curve: Curve, measured: Array, bounds: Sequence[tuple[float, float]], starts: int, seed: int, delta: float
) -> Array:
    """The constants, float64 [k], of the curve with the least Huber loss of log residuals.

    Starts are uniform in the bounds; the best end of L-BFGS-B is polished by a trust region, which converges where
    constants nearly stand for each other. The same arguments give the same constants.
    Source: Huber loss and L-BFGS as Hoffmann et al. 2022 (2203.15556), section 3.3
    """
    from scipy.optimize import least_squares, minimize

    log_measured = np.log(measured)

    def objective(x: Array) -> tuple[float, Array]:
        values, slopes = curve(x)
        loss, slope = _loss(np.log(values) - log_measured, delta)
        # in units of delta^2 a run, so that the stopping rules of the optimiser mean the same for any delta
        scale = 1 / (delta**2 * len(measured))
        return float(loss.sum()) * scale, ((slope / values) @ slopes) * scale

    low, high = np.array(bounds, dtype=np.float64).T
    drawn = np.random.default_rng(seed).uniform(low, high, (starts, len(low)))
    options = {"maxiter": 300, "maxfun": 500, "ftol": 1e-13, "gtol": 1e-10}  # near enough: the best one is polished
    ends = [minimize(objective, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for x in drawn]
    best = min(ends, key=lambda end: float(end.fun))
    polished = least_squares(
        lambda x: np.log(curve(x)[0]) - log_measured,
        np.clip(best.x, low + 1e-9, high - 1e-9),
        jac=lambda x: curve(x)[1] / curve(x)[0][:, None],
        bounds=(low, high), loss="huber", f_scale=delta, x_scale="jac", ftol=1e-14, xtol=1e-14, gtol=1e-14,
        max_nfev=2000,
    )  # fmt: skip
    found: Array = polished.x if objective(polished.x)[0] <= best.fun else best.x
    return found


def _loss(residual: Array, delta: float) -> tuple[Array, Array]:
    """The Huber loss of each residual and its derivative."""
    near = np.abs(residual) <= delta
    loss = np.where(near, residual**2 / 2, delta * (np.abs(residual) - delta / 2))
    return loss, np.where(near, residual, delta * np.sign(residual))
