"""Another model that has the new tokens: its rows, and which of its tokens have the same bytes as ours.

Shape suffixes: V rows of a matrix, D columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from surgeon import model_ref
from surgeon.arch.family import family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.reader import read
from surgeon.errors import SurgeonError, UsageError
from surgeon.vocab.kinds.wordpiece import WordPieceFile
from surgeon.vocab.token_text import token_bytes
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens
from surgeon.vocab.usable import usable_ids

if TYPE_CHECKING:
    from torch import Tensor

Missing = Literal["refuse", "subword_mean"]


class Donor:
    """A model's folder, opened; `matrix` says which of its rows stands for which bytes."""

    def __init__(self, name: str) -> None:
        reference = model_ref.resolve(name)
        if reference.adapter is not None:
            raise UsageError("a donor cannot have an adapter", name, "fold it first: surgeon fold-adapter")
        self.path: Path = reference.path
        self.checkpoint = Checkpoint.open(self.path)
        self.family = family_of(self.checkpoint)
        self.file = TokenizerFile.open(self.path)

    def matrix(self, role: str) -> tuple[Tensor, dict[bytes, int], dict[bytes, int]]:
        """The matrix that serves as `role` ("input" or "output") [V, D] in its stored dtype, and ids by the bytes of
        their tokens: of all tokens whose row is not zero, and of those whose row is no other's too."""
        head = self.family.embedding if self.family.tied or self.family.head is None else self.family.head
        stored = self.checkpoint.tensor(self.family.embedding if role == "input" else head)
        usable, rows_VD = usable_ids(self.file, stored), read(stored)  # in this order: it refuses rows not finite
        filled = rows_VD.any(1).tolist()
        held = tuple(i for i in self.file.ids if i < len(filled) and filled[i])
        return rows_VD, ids_by_bytes(self.file, held), ids_by_bytes(self.file, usable)

    def parted(
        self, new: NewTokens, file: TokenizerFile, ids: Mapping[bytes, int], missing: Missing
    ) -> tuple[dict[int, int], list[int]]:
        """(place in `new` -> the donor's id of that token, the places that the donor has no token for), of the tokens
        as `file` writes them. Raises SurgeonError where `missing` refuses these."""
        texts = [spelling(file, token) for token in new.tokens]
        lacking = [n for n, text in enumerate(texts) if text not in ids]
        if lacking and missing == "refuse":
            raise SurgeonError(
                f"the donor lacks {len(lacking)} of the {len(new)} new tokens, such as {new.tokens[lacking[0]]!r}",
                str(self.path),
                "give another donor, or --option missing=subword_mean",
            )
        return {n: ids[text] for n, text in enumerate(texts) if text in ids}, lacking


def ids_by_bytes(file: TokenizerFile, usable: tuple[int, ...]) -> dict[bytes, int]:
    """Id by the bytes of its text, over `usable` ids that are no added tokens. A byte-fallback piece <0xNN> stands for
    its byte, unless a letter does."""
    fallback, added, held = file.byte_ids, set(file.added_ids), set(usable)
    found = {bytes([byte]): i for i, byte in fallback.items() if i in held}
    plain = (i for i in usable if i not in fallback and i not in added)
    return found | {spelling(file, file.ids[i]): i for i in plain}


def spelling(file: TokenizerFile, token: str) -> bytes:
    """The bytes of a token's text; of one that begins a word, with the space that WordPiece does not write."""
    begins = isinstance(file, WordPieceFile) and not token.startswith(file.prefix)
    return b" " * begins + token_bytes(file, token)
