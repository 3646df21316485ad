"""Tokens in a static vector space, and new rows mixed from the old rows whose tokens are near in it.

Vectors come from the target text (PPMI-SVD over tokens), or from a file in word2vec's text format.
Shape suffixes: N new tokens, K old tokens with a vector, S dimensions of the space.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from surgeon.errors import SurgeonError, UsageError
from surgeon.progress import Progress
from surgeon.vocab.hull import Combination
from surgeon.vocab.threads import spread
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens
from surgeon.vocab.vec_file import read_vec

Missing = Literal["subword_mean", "refuse"]
Row = list[tuple[int, float]]
Weigh = Callable[[NDArray[np.float64]], tuple[NDArray[np.int64], NDArray[np.float64]]]
_HELD = 1 << 24  # cosines a thread holds at one time


@dataclass(frozen=True)
class TokenVectors:
    """ids int64 [T], ascending; vectors float64 [T, S], of unit length."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float64]

    @classmethod
    def of(cls, ids: NDArray[np.int64], vectors_TS: NDArray[np.float64]) -> TokenVectors:
        """Sorted and brought to unit length; a token whose vector is zero has none."""
        norms = np.linalg.norm(vectors_TS, axis=1)
        held = np.flatnonzero(norms > 0)
        held = held[np.argsort(ids[held], kind="stable")]
        return cls(ids[held], vectors_TS[held] / norms[held, None])

    def select(self, ids: NDArray[np.int64]) -> TokenVectors:
        """Those of the ascending `ids` that have a vector."""
        held = np.flatnonzero(np.isin(self.ids, ids))
        return TokenVectors(self.ids[held], self.vectors[held])


def token_vectors(
    init: str,
    new: NewTokens,
    old_file: TokenizerFile,
    vectors: Path | None,
    *,
    min_count: int,
    window: int,
    dimensions: int,
    max_tokens: int,
) -> TokenVectors:
    """Vectors of old and new tokens: those of the file, or of all tokens that the text holds `min_count` times."""
    if min(min_count, window) < 1 or dimensions < 2:
        raise UsageError("counts must be at least 1, dimensions 2", "--option", "see `surgeon methods init`")
    if vectors is not None:
        return _from_file(vectors, new, old_file)
    from surgeon.vocab.ppmi import ppmi_vectors

    tokens, documents = text_ids(new, init, max_tokens)
    ids, found = ppmi_vectors(tokens, documents, window=window, dimensions=dimensions)
    present, counts = np.unique(tokens, return_counts=True)
    often = np.isin(ids, present[counts >= min_count])
    return TokenVectors.of(ids[often], found[often])


def _from_file(path: Path, new: NewTokens, old_file: TokenizerFile) -> TokenVectors:
    file = read_vec(path)
    place = {token: i for i, token in old_file.ids.items()} | dict(zip(new.tokens, new.ids, strict=True))
    pairs = [(place[word], k) for word, k in file.index.items() if word in place]
    ids = np.asarray([i for i, _ in pairs], dtype=np.int64)
    return TokenVectors.of(ids, file.vectors[[k for _, k in pairs]].astype(np.float64))


def text_ids(new: NewTokens, init: str, max_tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first `max_tokens` ids of the target text, and the number of the document of each."""
    ids: list[int] = []
    numbers: list[int] = []
    for number, sequence in enumerate(capped(new.text(init), max_tokens)):
        ids += sequence
        numbers += [number] * len(sequence)
    return np.asarray(ids, dtype=np.int64), np.asarray(numbers, dtype=np.int64)


def capped(sequences: Iterable[list[int]], max_tokens: int) -> Iterator[list[int]]:
    """The sequences up to `max_tokens` ids in all, the last one cut."""
    if max_tokens < 1:
        raise UsageError(f"max_tokens must be at least 1, got {max_tokens}", "--option max_tokens", "leave it out")
    left = max_tokens
    for sequence in sequences:
        yield sequence[:left]
        left -= len(sequence)
        if left <= 0:
            return


def nearest(neighbours: int, temperature: float) -> Weigh:
    """softmax(cosine / temperature) over the greatest `neighbours` cosines; of equal ones the first."""
    if neighbours < 1 or not temperature > 0:
        raise UsageError(
            f"neighbours={neighbours} and temperature={temperature} must be above zero", "--option", "10 and 0.1"
        )

    def weigh(similar_K: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        if len(similar_K) < neighbours:
            raise UsageError(
                f"{neighbours} neighbours are asked for, {len(similar_K)} old tokens have a vector",
                "--option neighbours",
                "ask for fewer, or give more text",
            )
        least = np.partition(similar_K, -neighbours)[-neighbours]
        best = np.flatnonzero(similar_K >= least)
        best = np.sort(best[np.argsort(-similar_K[best], kind="stable")][:neighbours])
        weights = np.exp((similar_K[best] - similar_K[best].max()) / temperature)
        return best, weights / math.fsum(weights)

    return weigh


def mixed(
    init: str,
    new: NewTokens,
    old_space: TokenVectors,
    new_space: TokenVectors,
    weigh: Weigh,
    missing: Missing,
    progress: Progress,
) -> Combination:
    """Each new row from the usable old rows, weighted by `weigh` on the cosines [K] of its token to theirs.

    Never are all N x K cosines held at one time. A new token without a vector gets the mean of its pieces, or is
    refused (`missing`). The same bytes for any number of threads.
    """
    old = old_space.select(np.asarray(new.usable, dtype=np.int64))
    if not len(old.ids):
        raise SurgeonError(
            "no old token has a vector", f"init {init!r}", "give vectors, or text, that hold old tokens"
        )
    place = {int(i): k for k, i in enumerate(new_space.ids)}
    held = [n for n, i in enumerate(new.ids) if i in place]
    if not held:
        raise SurgeonError(
            "no new token has a vector", f"init {init!r}", "give vectors, or text, that hold new tokens"
        )
    rows: list[Row] = [[] for _ in new.ids]
    new_TS, old_ST = torch.from_numpy(new_space.vectors), torch.from_numpy(old.vectors).T

    def fill(chunk: list[int]) -> None:
        similar_NK = (new_TS[[place[new.ids[n]] for n in chunk]] @ old_ST).numpy()
        for n, similar_K in zip(chunk, similar_NK, strict=True):
            best, weights = weigh(similar_K)
            rows[n] = list(zip(old.ids[best].tolist(), weights.tolist(), strict=True))
        advance(len(chunk))

    with progress.task("nearest old tokens", len(held), "tokens") as advance, spread() as run:
        step = max(1, _HELD // len(old.ids))
        run(fill, [held[start : start + step] for start in range(0, len(held), step)])
    lost = [n for n, i in enumerate(new.ids) if i not in place]
    if lost and missing == "refuse":
        raise SurgeonError(
            f"{len(lost)} of {len(new)} new tokens have no vector, such as {new.tokens[lost[0]]!r}",
            f"init {init!r}",
            "give vectors of them or more text, or --option missing=subword_mean",
        )
    for n in lost:
        rows[n] = [(i, count / len(new.pieces[n])) for i, count in Counter(new.pieces[n]).items()]
    if lost:
        progress.say(f"{init}: {len(lost)} of {len(new)} new tokens have no vector: the mean of their pieces instead")
    return Combination.of(rows)
