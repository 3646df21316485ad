"""The table of words of a corpus: sequences of old pieces, each with how often it occurs.

A symbol below `first_character` is the id of an old piece; a character that only byte fallback can write is a symbol
of its own behind all ids, in order of code points. Words are what merges may not leave: the tokenizer's own pre-tokens
where it has a pre-tokenizer, and otherwise what SentencePiece's trainer holds to: a word starts at a space, letters,
digits and the rest are kept apart, digits stay single where the old vocabulary keeps them single. Added tokens, byte
pieces and (where merging goes by pieces) pieces that hold such a border inside end a word.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress
from surgeon.vocab.tokenizer_json import SPACE, TokenizerFile

MOST_SYMBOLS = 1 << 24  # old pieces, characters and new pieces: two of them are one 64-bit key
_BATCH_CHARACTERS, _BATCH_TEXTS = 1 << 20, 256
_LETTER, _DIGIT, _OTHER, _SPACE, _CLOSED = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class WordTable:
    """codes: int32, the symbols of all distinct words, one behind the other; lengths, counts: int64, of each word.

    characters: those seen only as bytes. occurrences: of each of these, in the whole corpus. num_tokens: old tokens of
    the corpus, num_documents likewise. points: how often each character stands in the corpus, where it was asked for.
    """

    codes: NDArray[np.int32]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    characters: tuple[str, ...]
    occurrences: tuple[int, ...]
    first_character: int
    num_tokens: int
    num_documents: int
    points: dict[str, int] = field(default_factory=dict)

    def stretches(self, fits: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """(codes, lengths, counts) of the stretches of words, of two symbols or more, whose symbols all fit."""
        word = np.repeat(np.arange(len(self.lengths)), self.lengths)
        at = np.flatnonzero(fits[self.codes])
        starts = np.ones(len(at), dtype=bool)
        starts[1:] = (at[1:] != at[:-1] + 1) | (word[at[1:]] != word[at[:-1]])
        first = np.flatnonzero(starts)
        lengths = np.diff(np.append(first, len(at)))
        long = lengths > 1
        return self.codes[at][np.repeat(long, lengths)], lengths[long], self.counts[word[at[first]]][long]


class _Classes:
    """Of every symbol: the class of its first and last character, and whether a space begins it."""

    def __init__(self, file: TokenizerFile) -> None:
        self.by_pieces = file.by_pieces
        closed = {*file.added_ids, *file.byte_ids}
        size = file.next_id
        self.first = np.full(size, _CLOSED, dtype=np.int8)
        self.last = np.full(size, _CLOSED, dtype=np.int8)
        self.spaced = np.zeros(size, dtype=bool)
        self.single_digits = True
        for i, token in file.ids.items():
            if i in closed or not token:
                continue
            kinds = [_class(character) for character in token]
            self.spaced[i] = kinds[0] == _SPACE
            if not self.by_pieces or _one_class(kinds):
                self.first[i], self.last[i] = kinds[0], kinds[-1]
            if kinds[-2:] == [_DIGIT, _DIGIT]:
                self.single_digits = False

    def add(self, character: str) -> None:
        for name in ("first", "last"):
            setattr(self, name, np.append(getattr(self, name), np.int8(_class(character))))
        self.spaced = np.append(self.spaced, False)

    def starts(self, codes: NDArray[np.int32], same_word: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Positions > 0 at which a new word starts; `same_word`: whether a position and the next share a pre-token."""
        left, right = codes[:-1], codes[1:]
        kinds, next_kinds = self.last[left], self.first[right]
        cut = ~same_word | (next_kinds == _CLOSED) | (kinds == _CLOSED)
        if self.by_pieces:
            cut |= self.spaced[right] | ((kinds != next_kinds) & (kinds != _SPACE))
            if self.single_digits:
                cut |= next_kinds == _DIGIT
        return np.flatnonzero(cut) + 1


def word_table(
    file: TokenizerFile, documents: Iterable[str], progress: Progress = SILENT, *, points: bool = False
) -> WordTable:
    """Encode the documents with the old tokenizer once and count their words; with `points` the characters too."""
    counter = _Counter(file)
    seen = np.zeros(0x110000 if points else 0, dtype=np.int64)
    num_documents = 0
    with progress.task("reading the corpus", None, "documents") as advance:
        for batch in batches(documents):
            if points:
                text = np.frombuffer("".join(batch).encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
                seen += np.bincount(text, minlength=len(seen))
            counter.add(*encode(file, counter.tokenizer, batch)[:2])
            num_documents += len(batch)
            advance(len(batch))
    if counter.num_tokens == 0:
        raise SurgeonError("the corpus holds no text", f"{num_documents} documents", "give a corpus with text")
    return counter.table(num_documents, {chr(i): int(seen[i]) for i in np.flatnonzero(seen)})


def encode(
    file: TokenizerFile, tokenizer: Any, batch: list[str]
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64]]:
    """The ids of the texts in a row; whether an id and the next share a pre-token (one less); where each text ends."""
    try:
        "".join(batch).encode("utf-8")
    except UnicodeEncodeError as error:
        text = error.object[max(error.start - 20, 0) : error.end + 20]
        raise SurgeonError(
            "a text holds half of a surrogate pair, which UTF-8 cannot write", repr(text), "mend the text"
        ) from error
    encodings = tokenizer.encode_batch(batch, add_special_tokens=False)
    rows = [encoding.ids for encoding in encodings]
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    total = int(ends[-1])
    codes = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=total)
    if file.data.get("pre_tokenizer") is None:  # a text is one word
        same = np.ones(max(total - 1, 0), dtype=bool)
    else:
        numbers = (-1 if n is None else n for encoding in encodings for n in encoding.word_ids)
        words = np.fromiter(numbers, dtype=np.int32, count=total)
        same = words[:-1] == words[1:]
    inner = ends[(ends > 0) & (ends < total)]
    same[inner - 1] = False
    return codes, same, ends


class _Counter:
    def __init__(self, file: TokenizerFile) -> None:
        self.file, self.tokenizer = file, file.load()
        self.classes, self.byte_of, self.first = _Classes(file), file.byte_ids, file.next_id
        self.is_byte = byte_mask(file)
        self.known: dict[str, int] = {}
        self.occurrences: Counter[str] = Counter()
        self.words: Counter[bytes] = Counter()
        self.num_tokens = 0

    def add(self, codes: NDArray[np.int32], same: NDArray[np.bool_]) -> None:
        """Count the words of a batch; words of one symbol are of no use."""
        self.num_tokens += len(codes)
        if not len(codes):
            return
        if self.byte_of and self.is_byte[codes].any():
            codes, same = self._characters(codes, same)
        starts = self.classes.starts(codes, same)
        begin = np.concatenate([[0], starts])
        stop = np.concatenate([starts, [len(codes)]])
        of_use = stop - begin > 1
        raw = codes.tobytes()
        edges = zip((4 * begin[of_use]).tolist(), (4 * stop[of_use]).tolist(), strict=True)
        self.words.update([raw[a:b] for a, b in edges])

    def _characters(
        self, codes: NDArray[np.int32], same: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Runs of byte pieces as characters where a character gains from being a token: several bytes, and visible."""
        out = codes.copy()
        stays = np.ones(len(codes), dtype=bool)
        for at, character, size in byte_characters(codes, self.is_byte, self.byte_of):
            if size > 1 and _visible(character):
                self.occurrences[character] += 1
                out[at] = self._symbol(character)
                stays[at + 1 : at + size] = False
        # a character's last byte knows whether the next piece is of its word
        last = np.append(np.flatnonzero(stays)[1:] - 1, len(codes) - 1)
        return out[stays], np.append(same, False)[last][:-1]

    def _symbol(self, character: str) -> int:
        if character not in self.known:
            self.known[character] = self.first + len(self.known)
            self.classes.add(character)
        return self.known[character]

    def table(self, num_documents: int, points: dict[str, int]) -> WordTable:
        characters = sorted(self.known)
        if self.first + len(characters) >= MOST_SYMBOLS // 2:
            raise SurgeonError("the vocabulary has too many ids", str(self.file.path), "eight million do not fit")
        place = np.arange(self.first + len(characters), dtype=np.int32)
        place[[self.known[c] for c in characters]] = self.first + np.arange(len(characters), dtype=np.int32)
        return WordTable(
            codes=place[np.frombuffer(b"".join(self.words), dtype=np.int32)],
            lengths=np.fromiter((len(word) // 4 for word in self.words), dtype=np.int64, count=len(self.words)),
            counts=np.fromiter(self.words.values(), dtype=np.int64, count=len(self.words)),
            characters=tuple(characters),
            occurrences=tuple(self.occurrences[c] for c in characters),
            first_character=self.first,
            num_tokens=self.num_tokens,
            num_documents=num_documents,
            points=points,
        )


def byte_mask(file: TokenizerFile) -> NDArray[np.bool_]:
    """Of every id, whether it is a byte-fallback piece."""
    mask = np.zeros(file.next_id, dtype=bool)
    mask[list(file.byte_ids)] = True
    return mask


def byte_characters(
    codes: NDArray[np.int32], is_byte: NDArray[np.bool_], byte_of: dict[int, int]
) -> Iterator[tuple[int, str, int]]:
    """Of each character that byte pieces write: its first place, itself, how many bytes it has."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_byte[codes], [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        at = start
        # two texts may meet in a run, each whole in itself
        for character in bytes(byte_of[c] for c in codes[start:stop].tolist()).decode("utf-8"):
            size = len(character.encode("utf-8"))
            yield at, character, size
            at += size


def batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Texts in batches of bounded size; a text longer than that is a batch of its own."""
    iterator = iter(documents)
    batch: list[str] = []
    size = 0
    for text in iterator:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS or len(batch) == _BATCH_TEXTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _class(character: str) -> int:
    if character == SPACE:
        return _SPACE
    kind = unicodedata.category(character)
    # format characters are the joiners of Indic and Persian words
    return _LETTER if kind[0] in "LM" or kind == "Cf" else _DIGIT if kind[0] == "N" else _OTHER


def _one_class(kinds: list[int]) -> bool:
    """Whether no word could end inside a piece: one class of characters, and spaces at most before it."""
    return len({*kinds[kinds[0] == _SPACE :]}) < 2 and _SPACE not in kinds[1:]


def _visible(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] not in "ZC" or kind == "Cf"
