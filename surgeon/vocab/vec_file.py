"""Files of static vectors (word2vec's text format, which fastText calls .vec) and bilingual dictionaries.

Shape suffixes: W words, S dimensions of the space.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surgeon.errors import SurgeonError

_HINT = "give a file of word2vec's text format, such as fastText's .vec"


@dataclass(frozen=True)
class WordVectors:
    """index: word -> its row, in the file's order; vectors: float32 [W, S]."""

    path: Path
    index: dict[str, int]
    vectors: NDArray[np.float32]


def read_vec(path: Path, max_words: int | None = None) -> WordVectors:
    """A file of word2vec's text format (a line `words dimensions`, then a word and its numbers a line).

    max_words: no more than the first so many (files hold the most frequent word first). Refuses a file that holds
    other than what its first line says, a word twice, or a number that is not finite.
    """
    index: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            head = file.readline().split()
            if len(head) != 2 or not all(part.isdigit() for part in head):
                raise SurgeonError("the first line is not `WORDS DIMENSIONS`", f"{path}:1", _HINT)
            total, width = int(head[0]), int(head[1])
            count = total if max_words is None else min(total, max_words)
            vectors_WS = np.empty((count, width), dtype=np.float32)
            for k in range(count):
                word, vectors_WS[k] = _line(file.readline(), width, f"{path}:{k + 2}")
                if index.setdefault(word, k) != k:
                    raise SurgeonError(f"the word {word!r} stands twice", f"{path}:{k + 2}", "remove one of its lines")
            if count == total and file.read().strip():
                raise SurgeonError(f"the file holds more than the {total} words that it says", str(path), _HINT)
    except OSError as error:
        raise SurgeonError(f"the file cannot be read: {error.strerror}", str(path), _HINT) from error
    if not len(vectors_WS) or not width:
        raise SurgeonError("the file holds no vector", str(path), _HINT)
    return WordVectors(path, index, vectors_WS)


def _line(raw: bytes, width: int, where: str) -> tuple[str, NDArray[np.float32]]:
    if not raw:
        raise SurgeonError("the file ends before the last word that its first line counts", where, _HINT)
    parts = raw.rstrip(b" \r\n").rsplit(b" ", width)  # the word itself may hold spaces
    try:
        if any(b"_" in part for part in parts[1:]):  # float takes 1_0 for ten
            raise ValueError
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            values = np.asarray([float(part) for part in parts[1:]], dtype=np.float32)
        word = parts[0].decode("utf-8")
    except ValueError as error:
        raise SurgeonError(f"the line is not a UTF-8 word and {width} numbers", where, _HINT) from error
    if len(values) != width or not word:
        raise SurgeonError(f"the line is not a word and {width} numbers", where, _HINT)
    if not np.isfinite(values).all():
        raise SurgeonError("a number is not finite", where, _HINT)
    return word, values


def read_dictionary(path: Path) -> list[tuple[str, str]]:
    """Pairs of words, a pair a line, with a tab or spaces between them."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SurgeonError(f"the dictionary cannot be read: {error}", str(path), "give a UTF-8 text file") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        parts = line.strip().split("\t") if "\t" in line.strip() else line.split()
        if len(parts) != 2 or not all(parts):
            raise SurgeonError("the line is not two words", f"{path}:{number}", "a source and a target word a line")
        pairs.append((parts[0].strip(), parts[1].strip()))
    return pairs
