"""BPE: a token is made by merges of listed pairs; new merges stand below all old ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from surgeon.errors import SurgeonError
from surgeon.vocab.tokenizer_json import Merge, TokenizerFile

_UTF8_BYTES = [*range(0xC0), *range(0xC2, 0xF5)]  # those that a text can hold


@dataclass(frozen=True)
class BPEFile(TokenizerFile):
    """Byte-level BPE, or SentencePiece-like BPE with byte fallback."""

    kind: ClassVar[str] = "BPE"

    @property
    def promise(self) -> str:
        if self.by_pieces:
            return (
                "old text keeps its encoding unless two neighbouring pieces of it make a new token, or it holds a "
                "character that bytes wrote before"
            )
        return "old text keeps its encoding unless the pair of a new merge stands in it"

    def check(self) -> None:
        """Also refuses variants whose merges are not plain concatenation, and a vocabulary that leaves text out."""
        for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
            if self.model.get(name):
                raise SurgeonError(
                    f"the tokenizer uses {name}={self.model[name]!r}, which extend-vocab cannot continue",
                    str(self.path),
                    "use a byte-level or SentencePiece-like BPE tokenizer",
                )
        super().check()
        if not (self.byte_level or self.model.get("byte_fallback")):
            raise SurgeonError(
                "the tokenizer has neither a byte-level alphabet nor byte fallback: new words may be unknown",
                str(self.path),
                "use a model whose tokenizer covers every text",
            )
        if len(set(self.merges)) != len(self.merges):
            raise SurgeonError("a merge stands twice", str(self.path), "restore the file")

    def check_bytes(self) -> None:
        """Refuse byte fallback that cannot write every text: such text is unknown, and nothing is learned of it."""
        held = set(self.byte_ids.values())
        lost = [byte for byte in _UTF8_BYTES if byte not in held] if self.by_pieces else []
        if lost:
            raise SurgeonError(
                f"the tokenizer falls back to bytes and lacks {len(lost)} of them, such as <0x{lost[0]:02X}>: "
                "new words may be unknown",
                str(self.path),
                "use a model whose tokenizer covers every text",
            )

    @cached_property
    def merges(self) -> list[Merge]:
        """In order of rank; both ways of writing them (pairs, or joined by a space) are read."""
        return [(m[0], m[1]) if isinstance(m, list) else _parts(m) for m in self.model["merges"]]

    @property
    def by_pieces(self) -> bool:
        """Whether any two neighbours whose concatenation is a piece merge (SentencePiece), not only listed pairs."""
        return bool(self.model.get("byte_fallback")) and not self.byte_level

    def extended(self, tokens: Sequence[str], merges: Sequence[Merge], first: int | None = None) -> TokenizerFile:
        vocab = self._vocab_with(tokens, first)
        for left, right in merges:
            if left + right not in vocab or left not in vocab or right not in vocab:
                raise ValueError(f"the merge of {left!r} and {right!r} names no token")
        joined = bool(self.model["merges"]) and isinstance(self.model["merges"][0], str)
        new = [f"{a} {b}" if joined else [a, b] for a, b in merges]
        model = self.model | {"vocab": vocab, "merges": [*self.model["merges"], *new]}
        return replace(self, data=self.data | {"model": model})


def _parts(merge: str) -> Merge:
    left, _, right = merge.partition(" ")
    return left, right
