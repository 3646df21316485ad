"""A sparse mean of the old rows whose tokens keep similar company in the target text: FOCUS."""

from __future__ import annotations

from pathlib import Path

from surgeon.progress import Progress
from surgeon.vocab.hull import Combination
from surgeon.vocab.sparsemax import sparsemax
from surgeon.vocab.static_vectors import Missing, mixed, token_vectors
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens

HULL = True
BATCH_INDEPENDENT = False  # the last bits of a matrix product depend on its size


def focus(
    new: NewTokens,
    old_file: TokenizerFile,
    progress: Progress,
    *,
    vectors: Path | None = None,
    missing: Missing = "subword_mean",
    min_count: int = 10,
    window: int = 5,
    dimensions: int = 300,
    max_tokens: int = 1_000_000,
) -> Combination:
    """sparsemax(cos of static vectors) over the usable old tokens that have a vector: no temperature, no fixed number.

    vectors: a file of word2vec's text format whose words are tokens as the vocabulary writes them; else vectors are
    made from the first `max_tokens` of the target text, in tokens of the new tokenizer (tokens rarer than `min_count`
    get none, as in the paper's code). Against the paper: PPMI-SVD with `window` and `dimensions` takes the place of a
    fastText CBOW of 300 dimensions, so a token's letters tell nothing; the old tokens of the text are the overlap,
    which it takes from a second tokenizer; a token without a vector gets the mean of its pieces (`missing`) instead of
    a draw from N(mean, sd), which leaves the hull. Float64.
    Source: Dobler and de Melo 2023, FOCUS, arXiv 2305.14481, section 3.
    """
    space = token_vectors(
        "focus", new, old_file, vectors,
        min_count=min_count, window=window, dimensions=dimensions, max_tokens=max_tokens,
    )  # fmt: skip
    return mixed("focus", new, space, space, sparsemax, missing, progress)
