"""The table of words of a corpus, each as a string with one private character for each piece of the old tokenizer.

A piece with id i is chr(0x10000 + i); a character that only byte fallback can write stands as a symbol of its own
behind all ids. Words are what merges may not leave: the tokenizer's own pre-tokens where it has a pre-tokenizer, and
otherwise what SentencePiece's trainer holds to: a word starts at a space, letters, digits and the rest are kept
apart, digits stay single where the old vocabulary keeps them single. Added tokens and byte pieces end a word.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np

from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress
from surgeon.vocab.tokenizer_json import SPACE, TokenizerFile

BASE = 0x10000  # symbols start above the surrogates; 0x100000 of them fit below the last code point
_BATCH = 64
_LETTER, _DIGIT, _OTHER, _SPACE, _CLOSED = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class WordTable:
    """words: string of symbols -> how often. characters: those seen only as bytes, in order of first sight.
    occurrences: of each of these. num_tokens: old tokens of the whole corpus; num_documents likewise."""

    words: Counter[str]
    characters: tuple[str, ...]
    occurrences: Counter[str]
    first_character: int
    num_tokens: int
    num_documents: int


class _Classes:
    """Of every symbol: the class of its first and last character, and whether a space begins it."""

    def __init__(self, file: TokenizerFile) -> None:
        self.by_pieces = file.by_pieces
        closed = {*file.added_ids, *file.byte_ids}
        size = file.next_id
        self.first = np.full(size, _CLOSED, dtype=np.int8)
        self.last = np.full(size, _CLOSED, dtype=np.int8)
        self.spaced = np.zeros(size, dtype=bool)
        self.single_digits = True
        for i, token in file.ids.items():
            if i in closed or not token:
                continue
            self.first[i], self.last[i] = _class(token[0]), _class(token[-1])
            self.spaced[i] = token.startswith(SPACE)
            if len(token) > 1 and _class(token[-1]) == _DIGIT and _class(token[-2]) == _DIGIT:
                self.single_digits = False

    def add(self, character: str) -> None:
        for name in ("first", "last"):
            setattr(self, name, np.append(getattr(self, name), np.int8(_class(character))))
        self.spaced = np.append(self.spaced, False)

    def starts(self, codes: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Positions > 0 at which a new word starts; `words` are the pre-token numbers."""
        left, right = codes[:-1], codes[1:]
        cut = words[:-1] != words[1:]
        cut |= (self.first[right] == _CLOSED) | (self.last[left] == _CLOSED)
        if self.by_pieces:
            kinds, next_kinds = self.last[left], self.first[right]
            cut |= self.spaced[right] | ((kinds != next_kinds) & (kinds != _SPACE))
            if self.single_digits:
                cut |= next_kinds == _DIGIT
        return np.flatnonzero(cut) + 1


def word_table(file: TokenizerFile, documents: Iterable[str], progress: Progress = SILENT) -> WordTable:
    """Encode the documents with the old tokenizer once and count their words."""
    tokenizer = file.load()
    classes = _Classes(file)
    byte_of = file.byte_ids
    first = file.next_id
    known: dict[str, int] = {}
    words: Counter[str] = Counter()
    occurrences: Counter[str] = Counter()
    num_tokens = num_documents = 0
    with progress.task("reading the corpus", None, "documents") as advance:
        for batch in _batches(documents):
            for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
                codes, numbers = encoding.ids, encoding.word_ids
                num_tokens += len(codes)
                if byte_of and not byte_of.keys().isdisjoint(codes):
                    codes, numbers = _characters(codes, numbers, byte_of, known, occurrences, classes, first)
                _count(words, codes, numbers, classes, first)
            num_documents += len(batch)
            advance(len(batch))
    if first + len(known) > 0x10FFFF - BASE:
        raise SurgeonError("the vocabulary has too many ids", str(file.path), "more than a million do not fit")
    if num_tokens == 0:
        raise SurgeonError("the corpus holds no text", f"{num_documents} documents", "give a corpus with text")
    return WordTable(words, tuple(known), occurrences, first, num_tokens, num_documents)


def _characters(
    codes: list[int],
    numbers: list[Any],
    byte_of: dict[int, int],
    known: dict[str, int],
    occurrences: Counter[str],
    classes: _Classes,
    first: int,
) -> tuple[list[int], list[Any]]:
    """Runs of byte pieces as characters where a character gains from being a token: several bytes, and visible."""
    out: list[int] = []
    at: list[Any] = []
    i = 0
    while i < len(codes):
        if codes[i] not in byte_of:
            out.append(codes[i])
            at.append(numbers[i])
            i += 1
            continue
        stop = i
        while stop < len(codes) and codes[stop] in byte_of:
            stop += 1
        for character in bytes(byte_of[c] for c in codes[i:stop]).decode("utf-8"):
            raw = character.encode("utf-8")
            if len(raw) == 1 or not _visible(character):
                out += codes[i : i + len(raw)]
            else:
                occurrences[character] += 1
                if character not in known:
                    known[character] = first + len(known)
                    classes.add(character)
                out.append(known[character])
            at += [numbers[i]] * (len(out) - len(at))
            i += len(raw)
    return out, at


def _count(words: Counter[str], codes: list[int], numbers: list[Any], classes: _Classes, first_character: int) -> None:
    """Words of one piece are of no use, except a character that may become one."""
    if not codes:
        return
    array = np.asarray(codes, dtype=np.int64)
    starts = classes.starts(array, np.asarray([-1 if n is None else n for n in numbers], dtype=np.int64))
    text = (array + BASE).astype("<u4").tobytes().decode("utf-32-le")
    low = chr(BASE + first_character)
    edges = [0, *starts.tolist(), len(codes)]
    words.update(text[a:b] for a, b in pairwise(edges) if b - a > 1 or text[a] >= low)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _class(character: str) -> int:
    if character == SPACE:
        return _SPACE
    kind = unicodedata.category(character)
    # format characters are the joiners of Indic and Persian words
    return _LETTER if kind[0] in "LM" or kind == "Cf" else _DIGIT if kind[0] == "N" else _OTHER


def _visible(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] not in "ZC" or kind == "Cf"
