"""Texts as two tokenizers cut them, and which tokens of the two cuts overlap."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from surgeon.vocab.token_text import token_bytes
from surgeon.vocab.tokenizer_json import TokenizerFile


class Cut(NamedTuple):
    """The ids of a text, and where each begins and ends; both never decrease."""

    ids: list[int]
    begins: list[int]
    ends: list[int]


class Aligned:
    """The texts, each as the (old, new) tokenizer cuts it: in bytes where both write the same number of them, which
    tells the pieces of a character apart, else in characters of the text (an unknown token stands for them)."""

    def __init__(self, old: TokenizerFile, new: TokenizerFile, texts: Iterable[str]) -> None:
        self.old, self.new, self.texts = old, new, texts

    def __call__(self) -> Iterator[tuple[Cut, Cut]]:
        tokenizers = [file.load() for file in (self.old, self.new)]
        lengths = [_lengths(file) for file in (self.old, self.new)]
        for text in self.texts:
            found = [tokenizer.encode(text, add_special_tokens=False) for tokenizer in tokenizers]
            old, new = (_in_bytes(one.ids, known) for one, known in zip(found, lengths, strict=True))
            if old.ends[-1:] != new.ends[-1:]:
                old, new = (_in_characters(one) for one in found)
            yield old, new


def overlaps(old: Cut, new: Cut, wanted: Container[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(new id, the old ids that overlap it, in order) for every occurrence of a wanted id that overlaps any."""
    for token, begin, end in zip(*new, strict=True):
        if token in wanted:
            way = old.ids[bisect_right(old.ends, begin) : bisect_left(old.begins, end)]
            if way:
                yield token, tuple(way)


def _lengths(file: TokenizerFile) -> dict[int, int]:
    """Id -> the bytes that it stands for."""
    single, added = set(file.byte_ids), set(file.added_ids)
    return {
        i: 1 if i in single else len(token.encode("utf-8")) if i in added else len(token_bytes(file, token))
        for i, token in file.ids.items()
    }


def _in_bytes(ids: list[int], lengths: dict[int, int]) -> Cut:
    ends = list(accumulate((lengths[i] for i in ids), initial=0))
    return Cut(ids, ends[:-1], ends[1:])


def _in_characters(encoding: Any) -> Cut:
    return Cut(encoding.ids, [begin for begin, _ in encoding.offsets], [end for _, end in encoding.offsets])
