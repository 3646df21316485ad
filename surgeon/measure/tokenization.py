"""What an extended vocabulary does to texts, by the tokenizers alone: no model, no torch.

Words are what stands between white space, bytes are UTF-8, tokens are without the special ones that a tokenizer adds.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress
from surgeon.vocab.tokenizer_json import TokenizerFile

if TYPE_CHECKING:
    from surgeon.data.source import Document

ALPHA = 2.5  # the order of the Renyi entropy that Zouhar et al. recommend
# a line ends, or white space follows a sentence's last mark (Latin, Devanagari, CJK)
_BREAK = re.compile(r"\n+|(?<=[.!?…।॥])\s+|(?<=[。！？])\s*")
_BATCH = 64


@dataclass(frozen=True)
class Side:
    """One tokenizer on the texts. round_trip: the share of texts that decode to themselves. renyi_efficiency: see
    the function; None where it is not defined."""

    tokens: int
    tokens_per_word: float
    tokens_per_byte: float
    bytes_per_token: float
    round_trip: float
    renyi_efficiency: float | None


@dataclass(frozen=True)
class Tokenization:
    """before, after: the two tokenizers on the same texts. new_used: the share of the new tokens that occur;
    new_share: the share of all tokens that are new. same_documents, same_sentences: the share that both encode as the
    same ids, a sentence by itself."""

    documents: int
    sentences: int
    words: int
    bytes: int
    before: Side
    after: Side
    new_used: float
    new_share: float
    same_documents: float
    same_sentences: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    before: TokenizerFile,
    after: TokenizerFile,
    new_ids: Sequence[int],
    texts: Iterable[str],
    where: str = "texts",
    progress: Progress = SILENT,
) -> Tokenization:
    """Both tokenizers on the texts, read once. Raises SurgeonError where the texts hold no word."""
    sides = (_Counts(before), _Counts(after))
    num_documents = num_sentences = num_words = num_bytes = same_documents = same_sentences = 0
    with progress.task(f"tokenizing {where}", None, "documents") as advance:
        for batch in _batches(texts):
            ids = [side.add(batch) for side in sides]
            same_documents += sum(a == b for a, b in zip(*ids, strict=True))
            parts = [part for text in batch for part in sentences(text)]
            same_sentences += sum(a == b for a, b in zip(*(side.encode(parts) for side in sides), strict=True))
            num_documents, num_sentences = num_documents + len(batch), num_sentences + len(parts)
            num_words += sum(len(text.split()) for text in batch)
            num_bytes += sum(len(text.encode("utf-8")) for text in batch)
            advance(len(batch))
    if not num_words:
        raise SurgeonError("the texts hold no word", where, "give a corpus with text")
    used = sides[1].frequencies.keys() & set(new_ids)
    return Tokenization(
        documents=num_documents,
        sentences=num_sentences,
        words=num_words,
        bytes=num_bytes,
        before=sides[0].side(num_documents, num_words, num_bytes),
        after=sides[1].side(num_documents, num_words, num_bytes),
        new_used=len(used) / max(len(new_ids), 1),
        new_share=sum(sides[1].frequencies[i] for i in used) / max(sides[1].frequencies.total(), 1),
        same_documents=same_documents / num_documents,
        same_sentences=same_sentences / max(num_sentences, 1),
    )


def renyi_efficiency(frequencies: Mapping[int, int], num_tokens: int, alpha: float = ALPHA) -> float | None:
    """H_alpha(p) / log |V| with H_alpha(p) = log(sum_i p_i^alpha) / (1 - alpha), p the unigram distribution.

    num_tokens: |V|, all tokens that the tokenizer has, as in the paper; the authors' tool `tokenization-scorer`
    divides by the log of the tokens that occur. None without tokens, or with a vocabulary of one.
    Source: Zouhar et al. 2023, Tokenization and the Noiseless Channel, section 4.
    """
    total = sum(frequencies.values())
    if not total or num_tokens < 2:
        return None
    # sorted: the sum must not depend on the order in which tokens were met
    power_sum = math.fsum((count / total) ** alpha for count in sorted(frequencies.values()))
    return math.log(power_sum) / (1 - alpha) / math.log(num_tokens) + 0.0  # no negative zero


def sentences(text: str) -> list[str]:
    """The pieces of a text between line ends and after the marks that end a sentence; blank ones are left out."""
    return [part for part in _BREAK.split(text) if part.strip()]


def texts_of(held: Iterable[Document]) -> Iterator[str]:
    """The texts of documents; each message of a conversation is a text of its own."""
    for document in held:
        yield from [document.text] if document.text is not None else [m["content"] for m in document.messages]


class _Counts:
    """Sums over the texts of one tokenizer."""

    def __init__(self, file: TokenizerFile) -> None:
        self.tokenizer = file.load()
        self.num_tokens = len(file.ids)
        self.frequencies: Counter[int] = Counter()
        self.came_back = 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def add(self, texts: Sequence[str]) -> list[list[int]]:
        found = self.encode(texts)
        for text, ids in zip(texts, found, strict=True):
            self.frequencies.update(ids)
            self.came_back += self.tokenizer.decode(ids, skip_special_tokens=False) == text
        return found

    def side(self, documents: int, words: int, num_bytes: int) -> Side:
        tokens = self.frequencies.total()
        return Side(
            tokens=tokens,
            tokens_per_word=tokens / words,
            tokens_per_byte=tokens / num_bytes,
            bytes_per_token=num_bytes / tokens,
            round_trip=self.came_back / documents,
            renyi_efficiency=renyi_efficiency(self.frequencies, self.num_tokens),
        )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
