"""What an init is told of the new tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from surgeon.errors import SurgeonError, UsageError
from surgeon.vocab.tokenizer_json import TokenizerFile

Sequences = Callable[[], Iterable[list[int]]]


@dataclass(frozen=True)
class NewTokens:
    """New tokens in the order of the rows that an init returns.

    tokens: as the vocabulary writes them. ids: their rows. pieces: of each, the ids that the old tokenizer gives its
    text. usable: ascending old ids whose rows may stand in means and hulls (in use, not special, not all zero, not
    equal to another row). sequences: the target text as ids of the new tokenizer, a document at a time, or None where
    no corpus was given.
    """

    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    pieces: tuple[tuple[int, ...], ...]
    usable: tuple[int, ...]
    sequences: Sequences | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def text(self, init: str) -> Iterable[list[int]]:
        """The sequences, or a refusal for an init that cannot do without them."""
        if self.sequences is None:
            raise UsageError(f"the init {init!r} reads the target text", "--corpus", "add --corpus CORPUS")
        return self.sequences()

    def seeds(self, seed: int) -> list[int]:
        """63 bits for each token, from the seed and the token alone: other tokens and their order do not matter."""
        digests = (hashlib.sha256(f"{seed}/{token}".encode()).digest() for token in self.tokens)
        return [int.from_bytes(d[:8], "little") >> 1 for d in digests]

    def select(self, rows: Iterable[int]) -> NewTokens:
        """The tokens at these positions, in the order given."""
        rows = list(rows)
        return replace(
            self,
            tokens=tuple(self.tokens[r] for r in rows),
            ids=tuple(self.ids[r] for r in rows),
            pieces=tuple(self.pieces[r] for r in rows),
        )


def old_pieces(old: TokenizerFile, tokens: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """The ids that the old model gives the text of each new token (byte-fallback pieces, or the unknown token, where
    it has no character)."""
    found = tuple(tuple(row) for row in old.pieces(tokens))
    if not all(found):
        raise SurgeonError("the old tokenizer gives nothing for a new token", str(old.path), "report this")
    return found
