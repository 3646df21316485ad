"""Masked windows: which tokens are hidden, and what stands in their places.

A mask is a pure function of (seed, step, row of the step) and of the row's tokens: it is made before rows are dealt
to processes and micro-batches, on the host, from Philox words whose counter is the step and the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.data.pack import IGNORED, Window
from surgeon.errors import SurgeonError
from surgeon.train import mask_policies
from surgeon.train.words import Words

_KEY = 0x6D61_736B  # apart from the keys of orders

Choose = Callable[[NDArray[np.uint64], int, NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True)
class Masks:
    """mask: the id of the mask token. usual: int64, the ids that may stand for a token at random. special: bool by
    id. share: of the tokens that are not special. masked, random: shares of the chosen tokens that become the mask
    token, and another one; the rest stays. choose: of (keys, budget, ids, numbers of words), a document at a time."""

    mask: int
    usual: NDArray[np.int64]
    special: NDArray[np.bool_]
    share: float
    masked: float
    random: float
    seed: int
    choose: Choose
    words: Words | None = None

    def of(self, step: int, windows: Sequence[Window]) -> list[Window]:
        """The windows of a step with tokens hidden, and labels (the token itself, not the next one) there alone."""
        return [self._window(window, step, row) for row, window in enumerate(windows)]

    def _window(self, window: Window, step: int, row: int) -> Window:
        size = len(window.ids)
        counter = np.array([0, row, step, 0], dtype=np.uint64)
        key = np.array([self.seed, _KEY], dtype=np.uint64)
        keys, kinds, others = np.random.Philox(key=key, counter=counter).random_raw(3 * size).reshape(3, size)
        free = ~self.special[window.ids]
        free[window.num_tokens :] = False
        tokens = window.ids.astype(np.int64)
        numbers = tokens if self.words is None else self.words.numbers(tokens)
        chosen, at = [], 0
        for length in window.lengths:
            places = at + np.flatnonzero(free[at : at + length])
            at += length
            if len(places):
                # a mask at least, as BERT has it: a document that hides nothing teaches nothing
                budget = max(1, int(self.share * len(places) + 0.5))
                chosen.append(places[self.choose(keys[places], budget, tokens[places], numbers[places])])
        hidden = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
        ids, labels = window.ids.copy(), np.full(size, IGNORED, dtype=np.int64)
        labels[hidden] = window.ids[hidden]
        kind = kinds[hidden].astype(np.float64) / 2.0**64
        ids[hidden[kind < self.masked]] = self.mask
        other = hidden[(kind >= self.masked) & (kind < self.masked + self.random)]
        ids[other] = self.usual[others[other] % np.uint64(len(self.usual))]
        return replace(window, ids=ids, labels=labels)


def masks_of(
    tokenizer: Any, rows: int, seed: int, shares: tuple[float, float, float], choose: Choose, words: Words | None
) -> Masks:
    """Masks for a tokenizer and a model with `rows` embeddings; shares: share, masked, random.

    Raises SurgeonError where the tokenizer has no mask token."""
    if tokenizer.mask_token_id is None:
        raise SurgeonError(
            "the tokenizer has no mask token", str(tokenizer.name_or_path), "give the tokenizer of the encoder"
        )
    special = np.zeros(rows, dtype=np.bool_)
    special[[i for i in tokenizer.all_special_ids if i < rows]] = True
    usual = np.array([i for i in range(min(rows, len(tokenizer))) if not special[i]], dtype=np.int64)
    return Masks(tokenizer.mask_token_id, usual, special, *shares, seed, choose, words)


def chooser(policy: str, words: Words | None, worth: Mapping[str, float], missing: float = 0.0) -> Choose:
    """The function of a policy. worth: of words by their spelling, `missing` where there is none."""
    if words is None:
        return lambda keys, budget, _ids, _numbers: mask_policies.any_tokens(keys, budget)
    function = mask_policies.token_a_word if policy == "entity" else mask_policies.whole_words
    known = words

    def choose(
        keys: NDArray[np.uint64], budget: int, ids: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        if not worth:
            return function(keys, budget, numbers)
        parts = np.split(ids, np.flatnonzero(np.diff(numbers)) + 1)
        values = [worth.get(known.text(tuple(part.tolist())), missing) for part in parts]
        return function(keys, budget, numbers, np.array(values))

    return choose
