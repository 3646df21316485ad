"""The kinds of tokenizer model that can be extended; each is one class in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgeon.vocab.tokenizer_json import TokenizerFile


def kind_class(kind: str) -> type[TokenizerFile] | None:
    """The class for `model.type` of a tokenizer.json, None for a kind that is not known."""
    from surgeon.vocab.kinds.bpe import BPEFile
    from surgeon.vocab.kinds.unigram import UnigramFile
    from surgeon.vocab.kinds.wordpiece import WordPieceFile

    classes: dict[str, type[TokenizerFile]] = {"BPE": BPEFile, "Unigram": UnigramFile, "WordPiece": WordPieceFile}
    return classes.get(kind)
