"""Which tokens of a document are masked, as functions of its words and of random keys."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]


def any_tokens(keys: Keys, budget: int) -> NDArray[np.int64]:
    """`budget` of all tokens; keys: uint64 [tokens], the smallest are taken. Result: numbers of tokens."""
    return np.argsort(keys, kind="stable")[:budget]


def whole_words(
    keys: Keys, budget: int, words: NDArray[np.int64], worth: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """All tokens of some words: by worth, the greatest first, then by the key of the first token.

    words: int64 [tokens], the number of the word of each, ascending. worth: float64 [words]. A word that does not fit
    into what is left of the budget is passed over, so there may be less of them, and none.
    Source: Devlin et al. 2019 (1810.04805), the authors' code for whole-word masking
    """
    starts, sizes = _spans(words)
    left, taken = budget, []
    for word in _order(keys[starts], worth):
        if sizes[word] <= left:
            taken.append(np.arange(starts[word], starts[word] + sizes[word]))
            left -= sizes[word]
        if not left:
            break
    return np.concatenate(taken) if taken else np.empty(0, np.int64)


def token_a_word(
    keys: Keys, budget: int, words: NDArray[np.int64], worth: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """One token of some words, in the same order: that of the smallest key in it. At most one a word, so at most as
    many as there are words.

    Source: Fernando and Ranathunga 2025 (2501.05700), linguistic entity masking
    """
    starts, sizes = _spans(words)
    chosen = [starts[w] + int(np.argmin(keys[starts[w] : starts[w] + sizes[w]])) for w in range(len(starts))]
    return np.array(chosen, dtype=np.int64)[_order(keys[starts], worth)[:budget]]


def _spans(words: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    _, starts, sizes = np.unique(words, return_index=True, return_counts=True)
    return starts, sizes


def _order(keys: Keys, worth: NDArray[np.float64] | None) -> NDArray[Any]:
    return np.argsort(keys, kind="stable") if worth is None else np.lexsort((keys, -worth))
