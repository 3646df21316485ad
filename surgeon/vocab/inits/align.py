"""A new row is the mean of what the old tokenizer wrote where the new token stands in the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from surgeon.errors import UsageError
from surgeon.vocab.aligned import Cut, overlaps
from surgeon.vocab.hull import Combination
from surgeon.vocab.tokens import NewTokens

HULL = True
BATCH_INDEPENDENT = True  # each token counts for itself
READS_TEXT = True


def align(
    new: NewTokens,
    aligned: Callable[[], Iterable[tuple[Cut, Cut]]] | None,
    *,
    mean_share: float = 0.0,
    max_tokens: int = 10_000_000,
) -> Combination:
    """Each occurrence of a new token counts 1, shared evenly by the old tokens that overlap it; a token that the
    first `max_tokens` new ids of the text do not hold is the mean of its pieces. mean_share: of the mean of all usable
    rows, mixed in.

    aligned: gives for each text what the old and what the new tokenizer cuts it into.
    With continued BPE an occurrence is nearly always the token's own pieces: rows are near those of `subword_mean`.
    Against the released code: overlap in bytes, not containment in characters, so that pieces of a character and
    tokens that cross are counted; every occurrence counts, there only the last one in a text; a token that is not seen
    has the mean of its pieces, there that of its merges.
    Source: Yamaguchi et al. 2024, arXiv 2406.11477, section 3 (Align).
    """
    if not 0 <= mean_share < 1:
        raise UsageError(f"mean_share must lie in [0, 1), got {mean_share}", "--option mean_share", "for example 0.1")
    if max_tokens < 1:
        raise UsageError(f"max_tokens must be above zero, got {max_tokens}", "--option max_tokens", "another")
    if aligned is None:
        raise UsageError("the init 'align' reads the target text", "--corpus", "add --corpus CORPUS")
    counts = _counts(new, aligned, max_tokens)
    rows = []
    for token, pieces in zip(new.ids, new.pieces, strict=True):
        ways = counts[token] or {pieces: 1}
        total = sum(ways.values())
        shares: dict[int, list[float]] = {}
        for way, count in sorted(ways.items()):
            for piece in way:
                shares.setdefault(piece, []).append(count / len(way))
        whole = total / (1 - mean_share)
        rows.append([(piece, math.fsum(held) / whole) for piece, held in sorted(shares.items())])
    return Combination.of(rows, [mean_share] * len(new), new.usable) if mean_share else Combination.of(rows)


def _counts(
    new: NewTokens, aligned: Callable[[], Iterable[tuple[Cut, Cut]]], max_tokens: int
) -> dict[int, dict[tuple[int, ...], int]]:
    """New id -> the old ids that it overlaps, in order -> how often."""
    counts: dict[int, dict[tuple[int, ...], int]] = {i: {} for i in new.ids}
    read = 0
    for old_cut, new_cut in aligned():
        for token, way in overlaps(old_cut, new_cut, counts):
            counts[token][way] = counts[token].get(way, 0) + 1
        read += len(new_cut.ids)
        if read >= max_tokens:
            break
    return counts
