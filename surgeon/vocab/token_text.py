"""Between a token as the vocabulary writes it and the text it stands for."""

from __future__ import annotations

from functools import cache

from surgeon.vocab.kinds.wordpiece import WordPieceFile
from surgeon.vocab.tokenizer_json import SPACE, TokenizerFile


@cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 for themselves, the rest from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def token_bytes(file: TokenizerFile, token: str) -> bytes:
    """The UTF-8 bytes of a token of the model, a leading space included; they need not be whole characters.

    WordPiece holds no spaces: there a token is the text of a word, or of a piece inside of one, without the prefix.
    """
    if isinstance(file, WordPieceFile):
        return token.removeprefix(file.prefix).encode("utf-8")
    if file.byte_level:
        alphabet = _byte_alphabet()
        return bytes(alphabet[letter] for letter in token)
    return token.replace(SPACE, " ").encode("utf-8")


def token_text(file: TokenizerFile, token: str) -> str:
    """The text of a token, a leading space included; bytes that are not whole characters become U+FFFD."""
    return token_bytes(file, token).decode("utf-8", errors="replace")


def text_token(file: TokenizerFile, text: str) -> str:
    """How the vocabulary would write `text` as one token: the inverse of token_text on whole characters (of a token
    that begins a word, for WordPiece)."""
    if isinstance(file, WordPieceFile):
        return text
    if file.byte_level:
        letters = {byte: letter for letter, byte in _byte_alphabet().items()}
        return "".join(letters[byte] for byte in text.encode("utf-8"))
    return text.replace(" ", SPACE)
