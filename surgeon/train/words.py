"""Words in a row of token ids, told by how a vocabulary marks where one begins."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.errors import SurgeonError

_SPACE = (
    "Ġ",
    "Ċ",
    "ĉ",
    "č",
    "▁",
)  # blank, line break, tab, return as byte-level vocabularies spell them; SentencePiece


class Words:
    """begins, special: bool [ids of the tokenizer], of every token whether it begins a word wherever it stands, and
    whether it is a special one.

    WordPiece: a word begins with every token that does not continue one (##). Byte-level BPE and SentencePiece: with
    a token that begins with white space, and where letters and digits meet punctuation or the other way round;
    what is not ASCII counts as letters.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        size = len(tokenizer)
        tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(list(range(size)))]
        self.special = np.zeros(size, dtype=np.bool_)
        self.special[[i for i in tokenizer.all_special_ids if i < size]] = True
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        prefix = model.get("continuing_subword_prefix") or ""
        if prefix:
            self.begins = np.array([not t.startswith(prefix) for t in tokens])
            self._first = self._last = np.zeros(size, dtype=np.bool_)
        elif any(t.startswith(_SPACE) for t in tokens):
            self.begins = np.array([t.startswith(_SPACE) for t in tokens])
            self._first, self._last = (np.array([_letter(t[at : at + 1 or None]) for t in tokens]) for at in (0, -1))
        else:
            raise SurgeonError(
                "the tokens do not say where a word begins", str(tokenizer.name_or_path), "mask single tokens: random"
            )
        self.text = lru_cache(maxsize=1 << 18)(self._text)

    def numbers(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """The number of the word of each token, from 0; int64 like `ids`. A special token is a word of its own."""
        found = self.begins[ids] | self.special[ids]
        found[1:] |= self.special[ids[:-1]] | (self._first[ids[1:]] != self._last[ids[:-1]])
        found[:1] = True
        result: NDArray[np.int64] = found.cumsum() - 1
        return result

    def spelt(self, ids: NDArray[Any]) -> list[str]:
        """The words of a text, special tokens left out, as the tokenizer spells them."""
        numbers, special = self.numbers(ids), self.special[ids]
        parts = np.split(ids[~special], np.flatnonzero(np.diff(numbers[~special])) + 1)
        return [self.text(tuple(part.tolist())) for part in parts if len(part)]

    def _text(self, ids: Iterable[int]) -> str:
        """A word without the white space around it."""
        spelt: str = self._tokenizer.convert_tokens_to_string(self._tokenizer.convert_ids_to_tokens(list(ids)))
        return spelt.strip()


def _letter(character: str) -> bool:
    return bool(character) and (ord(character) > 127 or character.isalnum())
