"""A sample of the new tokens: as the tokenizer has them, as people read them, and the old pieces they stand for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgeon.checkpoint.config_json import read_json_object
from surgeon.checkpoint.lineage import RowMap
from surgeon.errors import SurgeonError

SAMPLE = 50


@dataclass(frozen=True)
class Piece:
    """An old token by its id; text is None where there is no tokenizer.json to ask."""

    id: int
    token: str | None


@dataclass(frozen=True)
class NewToken:
    """text: decoded by the tokenizer, None where that cannot be asked."""

    id: int
    token: str
    text: str | None
    pieces: list[Piece]


@dataclass(frozen=True)
class NewTokens:
    """old: rows of the parent in use; rows: stored rows; added: all new ones; sample: the first SAMPLE of them."""

    old: int
    rows: int
    added: int
    method: str
    method_output: str
    sample: list[NewToken]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def new_tokens(checkpoint: Path, rows: RowMap) -> NewTokens:
    """The sample of a row map. Raises SurgeonError on a tokenizer.json that cannot be read."""
    tokenizer = _tokenizer(checkpoint / "tokenizer.json")
    decoder = tokenizer.decoder if tokenizer is not None else None
    sample = [
        NewToken(
            id=row.id,
            token=row.token,
            text=decoder.decode([row.token]) if decoder is not None else None,
            pieces=[Piece(p, tokenizer.id_to_token(p) if tokenizer is not None else None) for p in row.pieces],
        )
        for row in rows.new[:SAMPLE]
    ]
    return NewTokens(rows.old, rows.rows, len(rows.new), rows.method, rows.method_output, sample)


def _tokenizer(path: Path) -> Any:
    """The tokenizer of the checkpoint, or None where it has no tokenizer.json."""
    if not path.is_file():
        return None
    read_json_object(path)
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise SurgeonError(
            f"tokenizer.json cannot be loaded: {' '.join(str(error).split())}", str(path), "restore the file"
        ) from error
