"""Vectors of tokens from those of the words they stand in, and two spaces of words turned onto each other.

Shape suffixes: P pairs of words, T tokens, S dimensions of the space.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress
from surgeon.vocab.static_vectors import TokenVectors
from surgeon.vocab.threads import spread
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.vec_file import WordVectors
from surgeon.vocab.word_spans import words_with_tokens

Weights = defaultdict[int, defaultdict[int, float]]  # token id -> row of a word -> its weight


def rotation(source: WordVectors, target: WordVectors, pairs: Iterable[tuple[str, str]]) -> tuple[Tensor, int]:
    """(the orthogonal R [S, S] that brings the source words nearest to their translations as source @ R, num pairs).

    Each pair counts as written, in lower case and with a capital, wherever both files hold the words, once each.
    Source: orthogonal Procrustes, as in WECHSEL, section 3.
    """
    found: dict[tuple[int, int], None] = {}
    for left, right in pairs:
        for a in (left, left.lower(), left.title()):
            for b in (right, right.lower(), right.title()):
                if a in source.index and b in target.index:
                    found[source.index[a], target.index[b]] = None
    if not found:
        raise SurgeonError(
            "no pair of the dictionary has vectors on both sides",
            "--option dictionary",
            "a source word comes first on a line, then its translation",
        )
    left_PS, right_PS = (
        torch.from_numpy(vectors[[pair[side] for pair in found]]).to(torch.float64)
        for side, vectors in enumerate((source.vectors, target.vectors))
    )
    with spread():  # one thread: the same bytes for any number, which scipy's own function does not give
        u_SS, _, v_SS = torch.linalg.svd(left_PS.T @ right_PS)
        return u_SS @ v_SS, len(found)


def turned(space: TokenVectors, turn_SS: Tensor) -> TokenVectors:
    """The space after the rotation."""
    with spread():
        return TokenVectors(space.ids, (torch.from_numpy(space.vectors) @ turn_SS).numpy())


def by_own_encoding(words: WordVectors, file: TokenizerFile, progress: Progress = SILENT) -> TokenVectors:
    """Of each token the mean of the words whose encoding, alone or after a space, holds it, weighted by frequency.

    Files hold no counts but the most frequent word first: the word at rank r counts 1 / r (Zipf's law).
    """
    tokenizer = file.load()
    weights = _no_weights()
    with progress.task("words of the old language", len(words.index), "tokens") as advance:
        for word, k in words.index.items():
            for text in (word, f" {word}"):
                for i in dict.fromkeys(tokenizer.encode(text, add_special_tokens=False).ids):
                    weights[i][k] += 1 / (k + 1)
            advance(1)
    return _weighted(words, weights)


def by_text(words: WordVectors, pieces: dict[int, bytes], wanted: set[int], text: Iterable[list[int]]) -> TokenVectors:
    """Of each wanted token the mean of the words that it stands in, in the text, one summand an occurrence.

    A word counts as it is written or, where the file lacks that, in lower case. pieces: the bytes of every id.
    """
    weights = _no_weights()
    for sequence in text:
        for word, ids in words_with_tokens(sequence, pieces, wanted):
            k = words.index.get(word, words.index.get(word.lower(), -1))
            if k >= 0:
                for i in ids:
                    weights[i][k] += 1
    return _weighted(words, weights)


def _no_weights() -> Weights:
    return defaultdict(lambda: defaultdict(float))


def _weighted(words: WordVectors, weights: Weights) -> TokenVectors:
    sums_TS = np.zeros((len(weights), words.vectors.shape[1]))
    for row, counts in zip(sums_TS, weights.values(), strict=True):
        ranks = sorted(counts)
        share = np.asarray([counts[k] for k in ranks], dtype=np.float64)
        row += np.einsum("w,ws->s", share / share.sum(), words.vectors[ranks].astype(np.float64))
    return TokenVectors.of(np.asarray(list(weights), dtype=np.int64), sums_TS)
