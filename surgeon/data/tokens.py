"""A corpus as token ids: every document with its special tokens, and which tokens are to be learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from surgeon.data.source import Corpus, Document, documents
from surgeon.data.template import Rendered, render
from surgeon.errors import SurgeonError

LossOn = Literal["response", "all"]
_BATCH = 512


@dataclass(frozen=True)
class Tokens:
    """The documents of a corpus one behind the other.

    ids: int32 [tokens]. learn: bool [tokens], whether the token is a target. offsets: int64 [documents + 1].
    instruct: the corpus holds instruction records. num_bytes: of the text, in UTF-8.
    """

    name: str
    ids: NDArray[np.int32]
    learn: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    instruct: bool
    num_bytes: int

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Specials:
    """What a tokenizer puts around a text: the ids before it, and the id of the end (None: it has none)."""

    start: tuple[int, ...]
    end: int | None


def specials(tokenizer: Any) -> Specials:
    """Seen by encoding a letter, because the flags of tokenizer_config.json do not always say what happens."""
    if not tokenizer.is_fast:
        raise SurgeonError(
            "the tokenizer has no tokenizer.json", str(tokenizer.name_or_path), "convert it to a fast tokenizer once"
        )
    whole = tokenizer("a", add_special_tokens=True).input_ids
    bare = tokenizer("a", add_special_tokens=False).input_ids
    count = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return Specials(tuple(whole[:count]), tokenizer.eos_token_id)


def tokenise(corpus: Corpus, tokenizer: Any, loss_on: LossOn = "response") -> Tokens:
    """All documents, each once, in order: start tokens, the text's tokens, the end token.

    The end token is learned like any other, whatever the padding token is. With `loss_on="response"` the targets of
    instruction records are the answers and the token that ends each of them. A document is never truncated here.
    """
    marks = specials(tokenizer)
    ids: list[NDArray[np.int32]] = []
    learn: list[NDArray[np.bool_]] = []
    lengths, num_bytes, instruct = [0], 0, False
    for batch in _batches(documents(corpus)):
        rendered = [render(document, tokenizer) for document in batch]
        instruct = instruct or batch[0].text is None
        num_bytes += sum(len(r.text.encode("utf-8")) for r in rendered)
        encoded = encode(rendered, tokenizer)
        for one, (content, spans) in zip(rendered, encoded, strict=True):
            mask = targets(one, content, spans, tokenizer) if loss_on == "response" else None
            document_ids, document_learn = _wrap(one, content, mask, marks)
            ids.append(document_ids)
            learn.append(document_learn)
            lengths.append(len(document_ids))
    offsets = np.cumsum(np.asarray(lengths, dtype=np.int64))
    return Tokens(corpus.name, np.concatenate(ids), np.concatenate(learn), offsets, instruct, num_bytes)


def encode(rendered: list[Rendered], tokenizer: Any) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Token ids without special tokens of the tokenizer's own, and the characters each covers (for answers only)."""
    spans_wanted = any(r.answers for r in rendered)
    found = tokenizer(
        [r.text for r in rendered],
        add_special_tokens=False,
        return_offsets_mapping=spans_wanted,
        return_attention_mask=False,
        verbose=False,  # "longer than the model's maximum": long documents are split later
    )
    spans = found["offset_mapping"] if spans_wanted else [[] for _ in rendered]
    return list(zip(found["input_ids"], spans, strict=True))


def answer_tokens(one: Rendered, spans: list[tuple[int, int]]) -> NDArray[np.bool_]:
    """Which tokens hold a character of an answer: bool [tokens]."""
    begins, ends = np.asarray(spans, dtype=np.int64).reshape(-1, 2).T
    mask = np.zeros(len(spans), dtype=np.bool_)
    for begin, end in one.answers:
        mask |= (ends > begin) & (begins < end) & (ends > begins)
    return mask


def targets(one: Rendered, content: list[int], spans: list[tuple[int, int]], tokenizer: Any) -> NDArray[np.bool_]:
    """Which tokens are to be learned: all of a text; of a conversation the answers and what ends each of them."""
    if not one.answers:
        return np.ones(len(content), dtype=np.bool_)
    mask = answer_tokens(one, spans)
    special = np.isin(np.asarray(content), np.asarray(tokenizer.all_special_ids, dtype=np.int64))
    mask[1:] |= special[1:] & mask[:-1]
    return mask


def _wrap(
    one: Rendered, content: list[int], mask: NDArray[np.bool_] | None, marks: Specials
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    learn = np.ones(len(content), dtype=np.bool_) if mask is None else mask
    # a chat template may write the start itself
    start = () if tuple(content[: len(marks.start)]) == marks.start else marks.start
    last = int(np.flatnonzero(learn)[-1]) if learn.any() else len(content) - 1
    ended = marks.end is None or marks.end in content[last if one.answers else len(content) - 1 :]
    end = () if ended or marks.end is None else (marks.end,)
    ids = np.asarray([*start, *content, *end], dtype=np.int32)
    return ids, np.concatenate([np.zeros(len(start), np.bool_), learn, np.ones(len(end), np.bool_)])


def _batches(source: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(source, _BATCH)):
        yield batch
