"""The words of a corpus for tokenizers that choose among pieces (Unigram, WordPiece): as text and as old pieces."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress
from surgeon.vocab.kinds.wordpiece import WordPieceFile
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.words import word_table

BASE = 0x10000  # the private character of a piece is this plus its id: above the surrogates
_BATCH = 4096


@dataclass(frozen=True)
class PieceWords:
    """symbols: each word as one private character for each piece (surgeon.vocab.words), with how often it occurs.
    num_documents: of the corpus; num_tokens: of it as `file` encodes it. points: how often each character stands in
    the corpus, where it was asked for."""

    file: TokenizerFile
    symbols: Counter[str]
    num_documents: int
    num_tokens: int
    points: dict[str, int]

    @cached_property
    def texts(self) -> tuple[list[str], np.ndarray]:
        """The words as text that the bare model cuts, and how often each occurs [int64]."""
        prefix = self.file.prefix if isinstance(self.file, WordPieceFile) else ""
        ids = self.file.ids
        words = sorted(self.symbols)
        pieces = ([ids[ord(s) - BASE] for s in word] for word in words)
        texts = [row[0] + "".join(p.removeprefix(prefix) for p in row[1:]) for row in pieces]
        return texts, np.asarray([self.symbols[word] for word in words], dtype=np.int64)

    def counts(self, file: TokenizerFile, tokens: Sequence[str]) -> dict[str, int]:
        """How often each of `tokens` occurs where `file`, which holds them, encodes the words."""
        texts, weights = self.texts
        model = bare(file)
        total = np.zeros(file.next_id, dtype=np.int64)
        for start in range(0, len(texts), _BATCH):
            batch = model.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False)
            rows = [encoding.ids for encoding in batch]
            times = np.repeat(weights[start : start + _BATCH], [len(row) for row in rows])
            np.add.at(total, np.asarray([i for row in rows for i in row], dtype=np.int64), times)
        return {token: int(total[file.vocab[token]]) for token in tokens}


def bare(file: TokenizerFile) -> Any:
    """A tokenizers.Tokenizer of the model alone: no normaliser, pre-tokenizer, post-processor or added tokens."""
    from tokenizers import Tokenizer

    return Tokenizer(file.load().model)


def piece_words(
    file: TokenizerFile, documents: Iterable[str], progress: Progress = SILENT, *, points: bool = False
) -> PieceWords:
    """Encode the documents once; a word ends at what the file cannot write as a piece (unknown text, bytes)."""
    table = word_table(file, documents, progress, points=points)
    if BASE + file.next_id > 0x10FFFF:
        raise SurgeonError("the vocabulary has too many ids", str(file.path), "more than a million do not fit")
    closed = table.codes >= file.next_id
    if file.unknown_id is not None:
        closed |= table.codes == file.unknown_id
    letters = np.where(closed, ord(" "), table.codes + BASE).astype("<u4").tobytes().decode("utf-32-le")
    symbols: Counter[str] = Counter()
    end = 0
    for length, count in zip(table.lengths.tolist(), table.counts.tolist(), strict=True):
        word, end = letters[end : end + length], end + length
        for part in word.split():
            if len(part) > 1:
                symbols[part] += count
    return PieceWords(file, symbols, table.num_documents, table.num_tokens, table.points)


def new_characters(file: TokenizerFile, documents: Iterable[str], min_count: int) -> Counter[str]:
    """Pieces for the characters that the file cannot write, or only as bytes, and how often each occurs.

    A WordPiece tokenizer holds a character in two forms, at the start of a word and inside of it.
    """
    tokenizer = file.load()
    marks_inside = isinstance(file, WordPieceFile)
    contents = [token["content"] for token in file.added]
    known = {token for token in file.model_vocab if len(token) == 1}
    unseen: set[str] = set()
    found: Counter[str] = Counter()
    for text in documents:
        for content in contents:
            if content in text:
                text = text.replace(content, " ")
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        here = Counter(normal)
        fresh = {c for c in here if c not in known and (c in unseen or _gains(c))}
        unseen |= fresh
        if not marks_inside:
            found.update({c: here[c] for c in fresh})
        elif any(c not in known or file.prefix + c not in file.vocab for c in here):  # type: ignore[attr-defined]
            for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
                found.update(_forms(word, file))  # type: ignore[arg-type]
    return Counter({token: count for token, count in sorted(found.items()) if count >= min_count})


def _forms(word: str, file: WordPieceFile) -> list[str]:
    forms = [word[0], *(file.prefix + c for c in word[1:])]
    return [form for form in forms if form not in file.vocab and _gains(form[-1])]


def _gains(character: str) -> bool:
    """Whether it can be a piece: something visible, or a joiner of Indic and Persian words."""
    kind = unicodedata.category(character)
    return kind[0] not in "ZC" or kind == "Cf"
