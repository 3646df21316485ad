"""Rows of two vocabularies meet by what their tokens stand for, never by position where the tokens differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from surgeon.arch.family import family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.sidecars import TOKENIZER_FILES
from surgeon.ops.plan import runs
from surgeon.vocab.kinds.wordpiece import WordPieceFile
from surgeon.vocab.token_text import token_bytes
from surgeon.vocab.tokenizer_json import TokenizerFile

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Vocabulary:
    """rows: of the stored matrix. keys: id -> what the token stands for, as bytes that tell special tokens, byte
    pieces and text apart. added: id -> content of the tokens that the tokenizer was given on top of its model (chat
    tokens are among them). Ids without a key are padding."""

    rows: int
    keys: Mapping[int, bytes]
    added: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Key -> id; of ids with one key the first."""
        found: dict[bytes, int] = {}
        for i, key in sorted(self.keys.items()):
            found.setdefault(key, i)
        return found

    def refined_by(self, other: Vocabulary) -> bool:
        """Whether `other` has the same rows and has only given names to some that were padding, or that stood for
        special tokens kept in reserve: rows meet by their numbers then."""
        return self.rows == other.rows and all(
            other.keys.get(i) == key or (i in self.added and i in other.added) for i, key in self.keys.items()
        )


@dataclass(frozen=True)
class Met:
    """shifts: (ids of the one vocabulary, by how much the id in the other is larger). alone: ids without a partner."""

    shifts: tuple[tuple[Runs, int], ...]
    alone: Runs

    @property
    def same(self) -> bool:
        """Whether every row meets the row of its own number."""
        return not self.alone and all(shift == 0 for _, shift in self.shifts)


def vocabulary_of(checkpoint: Checkpoint) -> Vocabulary | None:
    """The tokens of a checkpoint by id; None where it has no tokenizer. Raises SurgeonError on one that cannot be
    read exactly."""
    if not any((checkpoint.path / name).is_file() for name in TOKENIZER_FILES):
        return None
    file = TokenizerFile.open(checkpoint.path)
    rows = checkpoint.tensor(family_of(checkpoint).embedding).shape[0]
    added = {token["id"]: str(token["content"]) for token in file.added}
    special = set(file.special_ids)
    keys = {i: _key(file, i, token, i in special, i in added) for i, token in file.ids.items() if i < rows}
    return Vocabulary(rows, keys, {i: content for i, content in added.items() if i < rows})


def same_files(one: Path, other: Path) -> bool:
    """Whether both folders have the same files of the vocabulary, byte for byte: nothing needs to be parsed then."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "added_tokens.json")
    for name in names:
        a, b = one / name, other / name
        if a.is_file() != b.is_file() or (a.is_file() and a.read_bytes() != b.read_bytes()):
            return False
    return True


def meet(one: Vocabulary, other: Vocabulary) -> Met:
    """The rows of `one` and their partners in `other`: by token; a row without a token (padding) meets the row of its
    number where that is one too."""
    by_shift: dict[int, list[int]] = {}
    alone: list[int] = []
    for i in range(one.rows):
        key = one.keys.get(i)
        if key is None:
            partner = i if i < other.rows and i not in other.keys else None
        elif other.keys.get(i) == key:
            partner = i  # also where two ids stand for one thing
        else:
            partner = other.ids.get(key)
        if partner is None:
            alone.append(i)
        else:
            by_shift.setdefault(partner - i, []).append(i)
    return Met(tuple((runs(ids), shift) for shift, ids in sorted(by_shift.items())), runs(alone))


def _key(file: TokenizerFile, i: int, token: str, special: bool, added: bool) -> bytes:
    if special:
        return b"\0special " + token.encode()
    if added:
        return b"\0text " + token.encode()  # the content is the text itself
    if i in file.byte_ids:
        return b"\0byte " + bytes([file.byte_ids[i]])
    return piece_key(file, token)


def piece_key(file: TokenizerFile, token: str) -> bytes:
    """The key of a piece of text, as the vocabulary writes it."""
    if isinstance(file, WordPieceFile):
        return b"\0piece " + token.encode()
    try:
        return b"\0text " + token_bytes(file, token)
    except KeyError:  # a token outside the byte alphabet
        return b"\0raw " + token.encode()
