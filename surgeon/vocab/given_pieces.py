"""A list of given tokens for tokenizers that choose among pieces (Unigram, WordPiece), each reachable or refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.vocab.kinds.wordpiece import WordPieceFile
from surgeon.vocab.learn import Learned
from surgeon.vocab.token_text import text_token
from surgeon.vocab.tokenizer_json import SPACE, TokenizerFile

_HINT = "change or remove the line"


def given_pieces(file: TokenizerFile, texts: Iterable[str], where: str = "tokens") -> Learned:
    """Each of `texts` as one token, first come first. No helpers are needed: a token is not made of others.

    A text for a WordPiece tokenizer is a word, or with the prefix (##ing) a piece inside of words. Refused: what is a
    token already, what stands twice, what the tokenizer always changes or splits, and what cannot be reached.
    """
    tokenizer = file.load()
    tokens: dict[str, int] = {}
    for number, text in enumerate(texts, 1):
        at = f"{where}:{number}"
        token = _as_one_word(file, tokenizer, text, at)
        if token in file.vocab:
            raise SurgeonError(f"{text!r} is a token already", at, "remove the line")
        if token in tokens:
            raise SurgeonError(f"{text!r} stands twice", at, "remove the line")
        tokens[token] = number
    lost = file.extended(list(tokens), []).unreachable(list(tokens))
    if lost:
        raise SurgeonError(
            f"{lost[0]!r} cannot be reached: other tokens are a better match for its text"
            + (f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""),
            f"{where}:{tokens[lost[0]]}",
            _HINT,
        )
    unknown = {None, file.unknown_id, *file.byte_ids}
    single = [t for t, row in zip(tokens, file.pieces(tokens), strict=True) if unknown.issuperset(row)]
    return Learned(tuple(tokens), (), num_characters=sum(len(_bare(file, t)) == 1 for t in single))


def _as_one_word(file: TokenizerFile, tokenizer: Any, text: str, where: str) -> str:
    """The token as the vocabulary writes it; refuses a text that normalising or pre-tokenising would change."""
    if not text.strip():
        raise SurgeonError("the line is blank", where, _HINT)
    if isinstance(file, WordPieceFile):
        if text != text.strip():
            raise SurgeonError(f"{text!r} holds a space: WordPiece tokens do not", where, "write the word alone")
        bare = _bare(file, text)
    else:
        bare = text.removeprefix(" ")
    if not bare:
        raise SurgeonError(f"{text!r} holds no text", where, _HINT)
    normal = tokenizer.normalizer.normalize_str(bare) if tokenizer.normalizer else bare
    normal = (normal.replace(SPACE, " ") if file.by_pieces else normal).strip()
    if normal != bare:
        raise SurgeonError(f"the tokenizer always changes {bare!r} to {normal!r}", where, _HINT)
    words = tokenizer.pre_tokenizer.pre_tokenize_str(bare) if tokenizer.pre_tokenizer else [(bare, (0, len(bare)))]
    token = text_token(file, text)
    if len(words) != 1 or (file.by_pieces and SPACE in token[1:]):
        raise SurgeonError(f"the tokenizer always splits {text!r}: tokens do not cross words", where, _HINT)
    return token


def _bare(file: TokenizerFile, token: str) -> str:
    return token.removeprefix(file.prefix) if isinstance(file, WordPieceFile) else token
