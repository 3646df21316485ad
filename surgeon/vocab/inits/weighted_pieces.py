"""Means of the old pieces that lean on the one which does the same work: text goes on from the last one."""

from __future__ import annotations

from typing import Any

from surgeon.vocab.hull import Combination
from surgeon.vocab.inits.subword_mean import subword_mean
from surgeon.vocab.tokens import NewTokens

HULL = True
BATCH_INDEPENDENT = True
_INPUT: dict[str, Any] = {"lean": "last", "decay": 0.25}
_OUTPUT: dict[str, Any] = {"lean": "first", "decay": 0.75, "mean_share": 0.1}
_TIED: dict[str, Any] = {"lean": "last", "decay": 0.75, "mean_share": 0.1}


def weighted_pieces(new: NewTokens, role: str, tied: bool) -> Combination:
    """Weighted means of the old pieces: nothing is read or trained. The default where no text and probe are given.

    The input row leans on the last piece, where the text goes on from; the output row on the first, where the old
    model would have begun the word, with a tenth of the mean of all rows, which keeps it below the best old row also
    after rounding to bfloat16. One matrix that serves as both leans on the last piece a little. The numbers were
    chosen on real models with benchmarks/vocab_step0.py.
    Source: `subword_mean` (Gee et al. 2022, Fast Vocabulary Transfer for Language Model Compression, section 3.1);
    leaning on one end is ours.
    """
    return subword_mean(new, **(_TIED if tied else {"input": _INPUT, "output": _OUTPUT}[role]))
