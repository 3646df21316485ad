"""The words of a text that is given as ids, each with the tokens it is written in."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cache
from itertools import accumulate, groupby

from surgeon.vocab.kinds.wordpiece import WordPieceFile
from surgeon.vocab.token_text import token_bytes
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens

_JOINERS = "\u200c\u200d"


@cache
def _inside(character: str) -> bool:
    """Letters, marks and numbers; and the joiners that some scripts write inside of words."""
    return character in _JOINERS or unicodedata.category(character)[0] in "LMN"


def piece_bytes(file: TokenizerFile, new: NewTokens) -> dict[int, bytes]:
    """The bytes that each old and each new id stands for in a text."""
    added, single = set(file.added_ids), file.byte_ids
    found: dict[int, bytes] = {}
    for i, token in [*file.ids.items(), *zip(new.ids, new.tokens, strict=True)]:
        if i in added:  # stands for its own text, also where the model writes bytes as letters
            found[i] = token.encode("utf-8")
        elif i in single:
            found[i] = bytes([single[i]])
        else:
            begins = isinstance(file, WordPieceFile) and not token.startswith(file.prefix)
            found[i] = (b" " if begins else b"") + token_bytes(file, token)  # WordPiece holds no spaces
    return found


def words_with_tokens(
    sequence: list[int], pieces: dict[int, bytes], wanted: set[int]
) -> Iterator[tuple[str, list[int]]]:
    """(word, the wanted ids in it, each once) for each word of the text with such an id.

    A word is a longest run of letters, marks, numbers and joiners; a token belongs to it that holds a byte of it.
    """
    if wanted.isdisjoint(sequence):
        return
    data = b"".join(pieces[i] for i in sequence)
    starts = list(accumulate((len(pieces[i]) for i in sequence), initial=0))
    place = 0
    for inside, characters in groupby(data.decode("utf-8", errors="surrogateescape"), _inside):
        word = "".join(characters)
        begin, place = place, place + len(word.encode("utf-8", errors="surrogateescape"))
        if inside:
            held = sequence[bisect_right(starts, begin) - 1 : bisect_left(starts, place)]
            ids = [i for i in dict.fromkeys(held) if i in wanted]
            if ids:
                yield word, ids
