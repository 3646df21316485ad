"""A new row is a mean of the rows of its old pieces, with weights that may lean on the first or the last piece."""

from __future__ import annotations

import math
from typing import Literal

from surgeon.errors import UsageError
from surgeon.vocab.hull import Combination
from surgeon.vocab.tokens import NewTokens

HULL = True
BATCH_INDEPENDENT = True


def subword_mean(
    new: NewTokens, *, lean: Literal["none", "first", "last"] = "none", decay: float = 0.0, mean_share: float = 0.0
) -> Combination:
    """The mean of the old rows of the pieces that the token had before, each as often as it stood there.

    lean: the piece on that end has weight 1, the next one `decay`, then decay^2 and so on (0: that piece alone).
    mean_share: of the mean of all usable rows, mixed in; it keeps an output row strictly below the best old one.
    Source: Gee et al. 2022, Fast Vocabulary Transfer for Language Model Compression, section 3.1 (lean none).
    """
    if not 0 <= decay <= 1:
        raise UsageError(f"decay must lie between 0 and 1, got {decay}", "--option decay", "for example 0.25")
    if not 0 <= mean_share < 1:
        raise UsageError(f"mean_share must lie in [0, 1), got {mean_share}", "--option mean_share", "for example 0.1")
    rows = [_shares(pieces, lean, decay, 1 - mean_share) for pieces in new.pieces]
    return Combination.of(rows, [mean_share] * len(new), new.usable) if mean_share else Combination.of(rows)


def _shares(pieces: tuple[int, ...], lean: str, decay: float, total: float) -> list[tuple[int, float]]:
    count = len(pieces)
    steps = {"none": [0] * count, "first": range(count), "last": range(count - 1, -1, -1)}[lean]
    weights = [decay**step for step in steps]  # 0.0**0 is 1
    whole = math.fsum(weights)
    shares: dict[int, list[float]] = {}
    for piece, weight in zip(pieces, weights, strict=True):
        if weight:
            shares.setdefault(piece, []).append(weight)
    return [(piece, total * math.fsum(found) / whole) for piece, found in shares.items()]
