"""WordPiece: a word is cut, from its start, into the longest pieces in the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from surgeon.errors import SurgeonError
from surgeon.vocab.tokenizer_json import TokenizerFile


@dataclass(frozen=True)
class WordPieceFile(TokenizerFile):
    """The tokenizers of BERT and its kin; a piece inside a word is written with a prefix (##)."""

    kind: ClassVar[str] = "WordPiece"

    @property
    def promise(self) -> str:
        said = (
            "no guarantee for text in a script of the new tokens: a word keeps its encoding unless a new token is a "
            "longer match at one of its piece boundaries, and is cut anew from there on where one is"
        )
        if not self.bound_letters:
            return said
        named = ", ".join(map(repr, self.bound_letters[:5])) + (", ..." if len(self.bound_letters) > 5 else "")
        return f"{said}; it becomes unknown where the rest begins with a letter that only longer pieces hold ({named})"

    @cached_property
    def bound_letters(self) -> list[str]:
        """Letters inside of pieces that are no piece by themselves inside of a word: a cut before one may find none.

        Where there are none, as in vocabularies that the trainers make, any word that could be written still can.
        """
        inside: set[str] = set()
        for token in self.model_vocab:
            text = token.removeprefix(self.prefix)
            letters = set(text if text != token else text[1:])
            letters = {letter for letter in letters if self.prefix + letter not in self.vocab}
            if letters and self._reaches_model(text):
                inside |= letters
        return sorted(inside)

    def _reaches_model(self, text: str) -> bool:
        """Whether the model is ever given a word like this: not so names such as [unused1]."""
        tokenizer = self.load()
        if tokenizer.normalizer is not None and tokenizer.normalizer.normalize_str(text) != text:
            return False
        return tokenizer.pre_tokenizer is None or len(tokenizer.pre_tokenizer.pre_tokenize_str(text)) == 1

    @property
    def prefix(self) -> str:
        """What a piece that does not begin a word starts with."""
        return str(self.model.get("continuing_subword_prefix", "##"))

    @property
    def unknown_id(self) -> int | None:
        return self.vocab[self.model["unk_token"]]

    def check(self) -> None:
        super().check()
        if self.model.get("unk_token") not in self.vocab:
            raise SurgeonError(
                f"the unknown token {self.model.get('unk_token')!r} is no token", str(self.path), "restore the file"
            )
        if not self.prefix:
            raise SurgeonError(
                "the tokenizer marks no pieces inside words: their tokens and those of words are the same",
                str(self.path),
                "use a WordPiece tokenizer with a prefix such as ##",
            )

    def pieces(self, tokens: Iterable[str]) -> list[list[int]]:
        """Longest match first, from the token's own place in a word; the unknown id alone where nothing matches."""
        return [self._cut(token) for token in tokens]

    def _cut(self, token: str) -> list[int]:
        found: list[int] = []
        rest = token
        while rest and rest != self.prefix:
            end = next((e for e in range(len(rest), 0, -1) if rest[:e] in self.vocab and rest[:e] != self.prefix), 0)
            if not end:
                assert self.unknown_id is not None
                return [self.unknown_id]
            found.append(self.vocab[rest[:end]])
            rest = self.prefix + rest[end:] if end < len(rest) else ""
        return found

    def unreachable(self, tokens: Sequence[str]) -> list[str]:
        """A piece that begins a word is tried alone, one inside a word behind single characters, in order of id."""
        model = self.load().model
        starts = [t for t in self.ids.values() if len(t) == 1]

        def comes_out(token: str) -> bool:
            if not token.startswith(self.prefix):
                return [p.value for p in model.tokenize(token)] == [token]
            text = token.removeprefix(self.prefix)
            return any([p.value for p in model.tokenize(c + text)] == [c, token] for c in starts)

        return [token for token in tokens if not comes_out(token)]
