"""Another model that has the new tokens: its rows, and which of its tokens have the same bytes as ours.

Shape suffixes: V rows of a matrix, D columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgeon import model_ref
from surgeon.arch.family import family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.reader import read
from surgeon.errors import UsageError
from surgeon.vocab.kinds.wordpiece import WordPieceFile
from surgeon.vocab.token_text import token_bytes
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.usable import usable_ids

if TYPE_CHECKING:
    from torch import Tensor


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
