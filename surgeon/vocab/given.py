"""A list of given tokens, each made reachable by merges or refused."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.vocab.learn import Learned
from surgeon.vocab.token_text import text_token
from surgeon.vocab.tokenizer_json import SPACE, Merge, TokenizerFile, all_splits, unreachable

_HINT = "change or remove the line"


def read_tokens(path: Path) -> list[str]:
    """The lines of a UTF-8 file, each the text of one token; a leading space is part of it; the end of line and a
    byte order mark at the start are not."""
    try:
        lines = path.read_text(encoding="utf-8").removeprefix("\ufeff").split("\n")
    except FileNotFoundError as error:
        raise SurgeonError("there is no such file", str(path), "give a file with one token a line") from error
    except OSError as error:
        raise SurgeonError(
            f"the file cannot be read: {error.strerror}", str(path), "give a file with one token a line"
        ) from error
    except UnicodeDecodeError as error:
        raise SurgeonError("the file is not valid UTF-8", str(path), "convert it once, as with iconv") from error
    lines = [line.removesuffix("\r") for line in lines]
    if lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise SurgeonError("the file holds no token", str(path), "give a file with one token a line")
    return lines


def given_tokens(file: TokenizerFile, texts: Iterable[str], where: str = "tokens") -> Learned:
    """Merges that make each of `texts` one token, first come first: the pieces it has so far, joined left to right.

    What a chain of merges passes through becomes a token as well (`helpers`), and so does a character that only bytes
    could write. Refused: what is a token already, what stands twice, what the tokenizer always splits, and what the
    merges of another line would break up.
    """
    tokenizer = file.load(merge_whole_words=False)
    byte_ids = file.byte_ids
    tokens: dict[str, None] = {}
    ranks: dict[Merge, int] = {}
    wanted: dict[str, int] = {}
    for number, text in enumerate(texts, 1):
        token = _as_one_word(file, tokenizer, text, f"{where}:{number}")
        if token in file.vocab:
            raise SurgeonError(f"{text!r} is a token already", f"{where}:{number}", "remove the line")
        if token in wanted:
            first = wanted[token]
            raise SurgeonError(f"{text!r} stands twice, first on line {first}", f"{where}:{number}", "remove the line")
        wanted[token] = number
        pieces = [piece.value if piece.id not in byte_ids else "" for piece in tokenizer.model.tokenize(token)]
        pieces = _with_characters(token, pieces, tokens)
        if "".join(pieces) != token:
            raise SurgeonError(f"the old tokenizer has no pieces for all of {text!r}", f"{where}:{number}", _HINT)
        pieces = _merged(pieces, ranks)
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            ranks[merge] = len(ranks)
            if merge[0] + merge[1] not in file.vocab:
                tokens[merge[0] + merge[1]] = None
            pieces = _merged(pieces, ranks)
    chosen = all_splits(list(tokens), file) if file.by_pieces else list(ranks)
    lost = unreachable(file.extended(list(tokens), chosen), list(wanted))
    if lost:
        raise SurgeonError(
            f"{lost[0]!r} cannot be reached: the merges of the other tokens, or of the old ones, take it apart"
            + (f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""),
            f"{where}:{wanted[lost[0]]}",
            _HINT,
        )
    helpers = tuple(token for token in tokens if token not in wanted)
    single = sum(len(token) == 1 for token in tokens) if file.byte_ids else 0
    return Learned(tuple(tokens), tuple(chosen), single, None, helpers)


def _as_one_word(file: TokenizerFile, tokenizer: Any, text: str, where: str) -> str:
    """The token as the vocabulary writes it; refuses a text that the tokenizer changes or always splits."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SurgeonError(f"{text!r} holds half of a surrogate pair: UTF-8 cannot write it", where, _HINT) from error
    if not text.strip():
        raise SurgeonError("the line is blank", where, _HINT)
    inside = next((t["content"] for t in file.added if t["content"] in text), None)
    if inside == text:
        raise SurgeonError(f"{text!r} is a token already", where, "remove the line")
    if inside is not None:
        raise SurgeonError(f"{text!r} holds the added token {inside!r}, which always ends a word", where, _HINT)
    normal = _normalised(tokenizer, text)
    if normal is not None:
        raise SurgeonError(f"the tokenizer changes {text!r} to {normal!r} before it looks for tokens", where, _HINT)
    token = text_token(file, text)
    if tokenizer.pre_tokenizer is not None:
        held = text if file.byte_level else token  # by then the normaliser has written the space
        words = tokenizer.pre_tokenizer.pre_tokenize_str(held)
        if len(words) != 1:
            parts = " | ".join(repr(held[a:b].replace(SPACE, " ")) for _, (a, b) in words)
            raise SurgeonError(f"the tokenizer always splits {text!r}: {parts}", where, _HINT)
    if not file.byte_level and SPACE in token[1:]:
        raise SurgeonError(f"{text!r} holds a space inside or at its end: tokens do not cross words", where, _HINT)
    return token


def _normalised(tokenizer: Any, text: str) -> str | None:
    """What the normaliser makes of the text inside of a line, None where it leaves it alone."""
    if tokenizer.normalizer is None:
        return None
    before, after = (tokenizer.normalizer.normalize_str(f".{t}.").replace(SPACE, " ") for t in ("", text))
    start, stop = before[:-1], before[-1:]  # what is put before a line belongs to the line
    inner = after.removeprefix(start).removesuffix(stop)
    return None if inner == text.replace(SPACE, " ") else inner


def _with_characters(token: str, pieces: list[str], tokens: dict[str, None]) -> list[str]:
    """Pieces with each run of bytes ("") replaced by its characters, which become tokens.

    Byte fallback works on whole characters, so the text tells how many bytes belong together.
    """
    out: list[str] = []
    position = i = 0
    while i < len(pieces):
        if pieces[i]:
            out.append(pieces[i])
            position += len(pieces[i])
            i += 1
            continue
        character = token[position]
        tokens[character] = None
        out.append(character)
        position += 1
        i += len(character.encode("utf-8"))
    return out


def _merged(pieces: list[str], ranks: dict[Merge, int]) -> list[str]:
    """What BPE makes of the pieces: the merge of the lowest rank, again and again."""
    while fitting := [pair for pair in pairwise(pieces) if pair in ranks]:
        pieces = _apply(pieces, min(fitting, key=ranks.__getitem__))
    return pieces


def _apply(pieces: list[str], merge: Merge) -> list[str]:
    """One merge applied from left to right wherever it fits."""
    out: list[str] = []
    i = 0
    while i < len(pieces):
        if i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == merge:
            out.append(merge[0] + merge[1])
            i += 2
        else:
            out.append(pieces[i])
            i += 1
    return out
