"""Every new row is the mean of the old rows."""

from __future__ import annotations

from surgeon.vocab.hull import Combination
from surgeon.vocab.tokens import NewTokens

HULL = True
BATCH_INDEPENDENT = True


def mean(new: NewTokens) -> Combination:
    """The mean of the usable old rows: the centre of the hull; all new rows are the same at first.

    Source: Hewitt 2021, Initializing New Word Embeddings for Pretrained Language Models.
    """
    return Combination.of([[] for _ in new.tokens], [1.0] * len(new), new.usable)
