"""--keep-corpus: text whose encoding must not change, and the merges that would change it.

All old merges come before all new ones, so a text is encoded as before exactly if no new merge fits two neighbouring
pieces of its old encoding, and none of the characters in it that bytes write becomes a piece. Pairs with a new piece
on one side then never arise in it, so only pairs of old pieces need to be looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.words import batches, byte_characters, byte_mask, encode

_BITS = 32  # of an id in the key of a pair
_COMPACT = 1 << 22


@dataclass(frozen=True)
class Kept:
    """texts: the corpus, to be read again. pairs: int64, ascending, left id << 32 | right id of all neighbours inside
    a pre-token. characters: those that bytes write. digests: of the ids of each text."""

    texts: Iterable[str]
    pairs: NDArray[np.int64]
    characters: frozenset[str]
    digests: tuple[bytes, ...]

    def __contains__(self, pair: tuple[int, int]) -> bool:
        """Whether two pieces, as ids, stand side by side; never for what is no old id."""
        if min(pair) < 0:
            return False
        key = pair[0] << _BITS | pair[1]
        at = int(np.searchsorted(self.pairs, key))
        return at < len(self.pairs) and int(self.pairs[at]) == key

    def check(self, file: TokenizerFile, progress: Progress = SILENT) -> None:
        """Refuse an extended tokenizer that gives one of the texts other ids than the old one did."""
        tokenizer = file.load()
        number = 0
        with progress.task("checking the text to keep", len(self.digests), "documents") as advance:
            for batch in batches(self.texts):
                codes, _, ends = encode(file, tokenizer, batch)
                for digest in _digests(codes, ends):
                    if number >= len(self.digests) or digest != self.digests[number]:
                        raise SurgeonError(
                            f"text {number + 1:,} of the keep corpus would not be encoded as before",
                            "internal error",
                            "report this, unless the corpus was changed in the meantime",
                        )
                    number += 1
                advance(len(batch))
        if number != len(self.digests):
            raise SurgeonError("the keep corpus has become shorter", "--keep-corpus", "run again")


def kept(file: TokenizerFile, texts: Iterable[str], progress: Progress = SILENT) -> Kept:
    """Read the texts that must be encoded as before; refuses a corpus without text."""
    texts = list(texts) if iter(texts) is texts else texts  # an iterator cannot be read again to check
    tokenizer, is_byte, byte_of = file.load(), byte_mask(file), file.byte_ids
    found: list[NDArray[np.int64]] = []
    characters: set[str] = set()
    digests: list[bytes] = []
    num_tokens = waiting = 0
    with progress.task("reading the text to keep", None, "documents") as advance:
        for batch in batches(texts):
            codes, same, ends = encode(file, tokenizer, batch)
            num_tokens += len(codes)
            digests += _digests(codes, ends)
            wide = codes.astype(np.int64)
            found.append(np.unique((wide[:-1] << _BITS | wide[1:])[same]))
            waiting += len(found[-1])
            if waiting > _COMPACT:  # what is held grows with the distinct pairs alone
                found, waiting = [np.unique(np.concatenate(found))], 0
            characters.update(c for _, c, _ in byte_characters(codes, is_byte, byte_of))
            advance(len(batch))
    if not num_tokens:
        raise SurgeonError("the corpus to keep holds no text", "--keep-corpus", "give a corpus with text")
    return Kept(texts, np.unique(np.concatenate(found)), frozenset(characters), tuple(digests))


def _digests(codes: NDArray[np.int32], ends: NDArray[np.int64]) -> list[bytes]:
    starts = [0, *ends[:-1].tolist()]
    spans = zip(starts, ends.tolist(), strict=True)
    return [hashlib.blake2b(codes[a:b].tobytes(), digest_size=16).digest() for a, b in spans]
