"""What skip-gram reads of a text: its tokens as codes, their pairs in batches, and the noise.

Shape suffixes: T positions of the text, P different tokens in it, M new tokens that it holds, B pairs.
Source: Mikolov et al. 2013, "Distributed Representations of Words and Phrases", section 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from surgeon.errors import SurgeonError
from surgeon.vocab.tokens import NewTokens

_BLOCK = 32  # neighbouring positions that stay together in a batch: their pairs share rows


@dataclass(frozen=True)
class Text:
    """A text over the codes 0..P-1 of the tokens it holds.

    ids int64 [P]: of each code, ascending. codes, documents int64 [T]: of each position. counts int64 [P]. rows int64
    [P]: the place of a new token in `held`, -1 for an old one. held int64 [M]: which of the new tokens it holds.
    """

    ids: np.ndarray
    codes: np.ndarray
    documents: np.ndarray
    counts: np.ndarray
    rows: np.ndarray
    held: np.ndarray

    @classmethod
    def of(cls, tokens: np.ndarray, documents: np.ndarray, new_ids: tuple[int, ...]) -> Text:
        ids, codes, counts = np.unique(tokens, return_inverse=True, return_counts=True)
        place = {id_: n for n, id_ in enumerate(new_ids)}
        new = np.asarray([place.get(i, -1) for i in ids.tolist()], dtype=np.int64)
        held = np.unique(new[new >= 0])
        rows = np.where(new >= 0, np.searchsorted(held, new), -1)
        return cls(ids, codes, documents, counts, rows, held)

    @classmethod
    def read(cls, new: NewTokens, init: str, max_tokens: int, num_old: int) -> Text:
        """The first `max_tokens` of the target text; refused where they hold no new token or one without a row."""
        parts: list[np.ndarray] = []
        length = 0
        for sequence in new.text(init):
            parts.append(np.asarray(sequence[: max_tokens - length], dtype=np.int64))
            length += len(parts[-1])
            if length >= max_tokens:
                break
        documents = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        text = cls.of(np.concatenate([*parts, np.empty(0, np.int64)]), documents, new.ids)
        if not len(text.held):
            raise SurgeonError("the target text holds none of the new tokens", "--corpus", "give text that uses them")
        if bool((text.ids[text.rows < 0] >= num_old).any()):
            raise SurgeonError(f"the text holds an id without a row in {num_old}", "--corpus", "report this")
        return text

    def subsampled(self, threshold: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(codes, documents) of the positions that stay: one of relative frequency f does with probability
        min(1, sqrt(threshold / f))."""
        chance = np.sqrt(threshold * len(self.codes) / self.counts)
        keep = rng.random(len(self.codes)) < chance[self.codes]
        return self.codes[keep], self.documents[keep]


def pairs(
    codes: np.ndarray, documents: np.ndarray, is_new: np.ndarray, window: int, batch: int, rng: np.random.Generator
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(number of positions, centre [B], context [B]) in batches of at most `batch` pairs, each ordered pair once.

    A pair has a new token on one side at least: one of two old tokens has no gradient but through its negatives, and
    is left out. What is shuffled is runs of neighbouring positions; only the pairs of one batch are held.
    """
    block = max(1, min(_BLOCK, batch // (2 * window)))
    order = rng.permutation(-(-len(codes) // block))
    step = max(1, batch // (2 * window * block))
    offsets = np.concatenate([np.arange(-window, 0), np.arange(1, window + 1)])
    for start in range(0, len(order), step):
        at = (order[start : start + step, None] * block + np.arange(block)).ravel()
        at = at[at < len(codes)]
        other = at[:, None] + offsets
        inside = (other >= 0) & (other < len(codes))
        other = np.where(inside, other, at[:, None])
        fits = inside & (documents[other] == documents[at, None]) & (is_new[codes[other]] | is_new[codes[at, None]])
        centre = np.broadcast_to(codes[at, None], fits.shape)[fits]
        yield len(at), centre, codes[other][fits]


class Noise:
    """Codes drawn with replacement in proportion to count^0.75."""

    def __init__(self, counts: np.ndarray) -> None:
        self.sums = np.cumsum(counts.astype(np.float64) ** 0.75)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.searchsorted(self.sums, rng.random(shape) * self.sums[-1], side="right")
