"""The choice among candidate pieces: the extended tokenizer encodes the words, and what saves least goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from surgeon.vocab.gain import STRIDE, stop_at
from surgeon.vocab.keep import Kept
from surgeon.vocab.piece_words import PieceWords
from surgeon.vocab.script import Script
from surgeon.vocab.token_text import token_bytes, token_text
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.words import batches, encode

_SHRINK = 0.75  # of the candidates kept in a round of pruning, as in SentencePiece's trainer
_TURNS = 3  # rounds that only change the order of the tokens


class Chosen(NamedTuple):
    """tokens, and how many old ones each saves in the corpus, beside the others. stopped: by too small a gain."""

    tokens: tuple[str, ...]
    saved: tuple[int, ...]
    stopped: bool

    def __len__(self) -> int:
        return len(self[0])


class PiecePool:
    """Candidates of one corpus. characters: new ones, and how often they occur. banned: those in a text to keep."""

    def __init__(
        self,
        file: TokenizerFile,
        words: PieceWords,
        characters: Counter[str],
        min_count: int,
        max_length: int | None,
        script: Script | None,
        kept: Kept | None,
    ) -> None:
        self.file, self.words, self.characters = file, words, characters
        self.min_count, self.max_length, self.script, self.kept = min_count, max_length, script, kept
        # what a character saves that bytes wrote (of one byte: nothing), or that was unknown: then the text itself
        least = 0 if file.byte_ids else 1
        self._gain = {c: max(len(c[-1].encode("utf-8")) - 1, least) for c in characters}  # each time it occurs
        self.gain = {c: gain * characters[c] for c, gain in self._gain.items()}
        self.num_tokens = words.num_tokens + sum(self.gain.values())
        self.banned: set[str] = set()
        self.lost: set[str] = set()

    def choose(self, texts: Iterable[str], add: int, stop_gain: float | None) -> Chosen:
        """Up to `add` tokens in the order of what they save, each used and reached, none in a text to keep."""
        candidates = [t for t in dict.fromkeys((*self.characters, *texts)) if self._fits(t)]
        while found := self._kept_holds(self._left(candidates)):  # what takes a token's place may occur in turn
            self.banned |= found
        while True:
            tokens, saved = self._prune(self._left(candidates), add if stop_gain is None else add + STRIDE)
            num = min(add, len(tokens))
            if stop_gain is not None:
                num = stop_at(list(accumulate(saved, lambda a, b: a - b, initial=self.num_tokens)), num, stop_gain)
            stopped = num < min(add, len(tokens))
            tokens, saved = self._prune(tokens, num)
            lost = set(self.file.extended(tokens, []).unreachable(tokens))
            found = self._kept_holds(tokens)
            if not lost and not found:
                return Chosen(tuple(tokens), tuple(saved), stopped)
            self.lost |= lost
            self.banned |= found

    def _fits(self, token: str) -> bool:
        if token in self.file.vocab:
            return False
        if self.max_length is not None and len(token_text(self.file, token)) > self.max_length:
            return False
        return self.script is None or self.script.owns(token_bytes(self.file, token))

    def _left(self, candidates: Iterable[str]) -> list[str]:
        return [t for t in candidates if t not in self.banned and t not in self.lost]

    def _kept_holds(self, tokens: Sequence[str]) -> set[str]:
        """Those of the tokens that occur in the texts to keep as a tokenizer with all of them encodes these."""
        if self.kept is None:
            return set()
        extended = self.file.extended(tokens, [])
        found: set[int] = set()
        for batch in batches(self.kept.texts):
            codes, _, _ = encode(extended, extended.load(), batch)
            found.update(np.unique(codes[codes >= self.file.next_id]).tolist())
        return {extended.ids[i] for i in found}

    def _prune(self, tokens: list[str], add: int) -> tuple[list[str], list[int]]:
        """Drop what is used less than min_count times or saves least, until a round changes nothing.

        A character counts wherever it occurs: without it other words that hold it could not be written. The order
        decides between equal ways to cut a word, so it may change what is saved and with it the order: a few rounds
        that change nothing else are enough.
        """
        turns = 0
        while True:
            counts = self.words.counts(self.file.extended(tokens, []), tokens) | {
                t: self.characters[t] for t in tokens if t in self.characters
            }
            lengths = self._lengths(tokens)
            saved = {t: self.gain.get(t, counts[t] * (n - 1)) for t, n in zip(tokens, lengths, strict=True)}
            left = [t for t in tokens if counts[t] >= self.min_count and saved[t] > 0]
            left.sort(key=lambda t: (-saved[t], t))
            if len(left) == len(tokens):
                left = left[: max(add, int(_SHRINK * len(left)))]
            turns = turns + 1 if len(left) == len(tokens) else 0
            if left == tokens or turns > _TURNS:
                return tokens, [saved[t] for t in tokens]
            tokens = left

    def _lengths(self, tokens: Sequence[str]) -> list[int]:
        """How many tokens write each of them where it is no token itself: a new character that is none of them is
        still its bytes, which nothing else has saved."""
        held, file = set(tokens), self.words.file
        lost = {file.vocab[c]: gain for c, gain in self._gain.items() if c not in held}
        return [sum(1 + lost.get(i, 0) for i in row) for row in file.pieces(tokens)]
