"""A new row is the mean of the rows of its old pieces."""

from __future__ import annotations

from surgeon.vocab.hull import Combination
from surgeon.vocab.tokens import NewTokens

HULL = True
BATCH_INDEPENDENT = True


def subword_mean(new: NewTokens) -> Combination:
    """The mean of the old rows of the pieces that the token had before, each as often as it stood there.

    Source: Gee et al. 2022, Fast Vocabulary Transfer for Language Model Compression, section 3.1.
    """
    return Combination.of([_shares(pieces) for pieces in new.pieces])


def _shares(pieces: tuple[int, ...]) -> list[tuple[int, float]]:
    counts = {piece: pieces.count(piece) for piece in dict.fromkeys(pieces)}
    return [(piece, count / len(pieces)) for piece, count in counts.items()]
