"""The weighted average of models (no base): a soup."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

from surgeon.errors import UsageError

ROWWISE = True
COMMUTATIVE = True
ROUNDING = 1e-12  # of the sum of the magnitudes: a sum of weights that is no more than that is one of 0


def linear(tensors: list[Tensor], weights: list[float], *, normalize: bool = True) -> Tensor:
    """Sum of weight x tensor in float64, each product rounded before its sum; normalize: weights divided by their sum.

    mergekit divides the sum by that of the weights instead: the same to a few units in the last place.
    Source: Wortsman et al. 2022, Model soups (arXiv 2203.05482), section 2.
    """
    shares = _shares(weights, normalize)
    merged = tensors[0] * shares[0]
    for tensor, share in zip(tensors[1:], shares[1:], strict=True):
        merged += tensor * share
    return merged


def same_as(weights: list[float], *, normalize: bool = True) -> int | None:
    """The number of the input that the result equals exactly, where there is one."""
    shares = _shares(weights, normalize)
    held = [i for i, share in enumerate(shares) if share != 0]
    return held[0] if len(held) == 1 and shares[held[0]] == 1 else None


def _shares(weights: list[float], normalize: bool) -> list[float]:
    total = sum(weights)
    # 0.1 + 0.2 - 0.3 is 5.6e-17: its inverse would be the weights
    if normalize and abs(total) <= ROUNDING * sum(map(abs, weights)):
        raise UsageError("the weights sum to 0", "MODEL=WEIGHT", "give weights with another sum, or normalize=false")
    return [w / total for w in weights] if normalize else list(weights)


def weighted_sum(weights: list[float], *, normalize: bool = True) -> list[float]:
    """The factors of the tensors: all that there is to the method, so that it needs no torch."""
    return _shares(weights, normalize)
