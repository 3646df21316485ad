"""Refusals that several methods share."""

from __future__ import annotations

from collections.abc import Sequence

from surgeon.errors import UsageError


def check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise UsageError(
            f"density={density} is not in (0, 1]", "--option density", "it is the share of elements that is kept"
        )


def check_weights(weights: Sequence[float], normalize: bool) -> None:
    """Normalised weights must not be negative: a sum of weights of both signs is no measure of how many agree."""
    if normalize and min(weights, default=0.0) < 0:
        raise UsageError(
            "normalised weights must not be negative", "--add MODEL=WEIGHT", "use --option normalize=false"
        )


def check_unweighted(method: str, weights: Sequence[float], least: int) -> None:
    """For methods that weigh the models themselves."""
    if len(weights) < least:
        raise UsageError(
            f"{method} compares at least {least} models, {len(weights)} have something to merge here",
            "--add",
            "give one more, or take another method",
        )
    if any(weight != 1 for weight in weights):
        raise UsageError(f"{method} weighs the models itself", "--add MODEL=WEIGHT", "leave the weights out")


def second_share(method: str, weights: Sequence[float]) -> float:
    """The second's share of two weights."""
    if len(weights) != 2:
        raise UsageError(
            f"{method} is between two models, {len(weights)} are given", f"surgeon merge {method}", "give two"
        )
    if min(weights) < 0 or sum(weights) == 0:
        raise UsageError("the weights give no share", "MODEL=WEIGHT", "give two that are not negative, not both 0")
    return weights[1] / sum(weights)
