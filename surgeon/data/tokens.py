"""A corpus as token ids: every document with its special tokens, and which tokens are to be learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from surgeon.data.pieces import Pieces
from surgeon.data.source import Corpus, Document, documents
from surgeon.data.template import Rendered, render
from surgeon.errors import SurgeonError

LossOn = Literal["response", "all"]
_T = TypeVar("_T")
_R = TypeVar("_R")
_BATCH = 512  # documents, and at most so many characters (but one document at least):
_BATCH_CHARACTERS = 2_000_000


@dataclass(frozen=True)
class Tokens:
    """The documents of a corpus one behind the other.

    ids: int32 [tokens]. learn: bool [tokens], whether the token is a target. offsets: int64 [documents + 1].
    instruct: the corpus holds instruction records. num_bytes: of the text, in UTF-8. The arrays may be mapped from a
    file. max_id: the greatest id. learned: how many tokens are targets; both are counted where they are not given.
    pieces: of tokens in a file, to be asked before they are read.
    """

    name: str
    ids: NDArray[np.int32]
    learn: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    instruct: bool
    num_bytes: int
    max_id: int = -1
    learned: int = -1
    pieces: Pieces | None = None

    def __post_init__(self) -> None:
        if self.max_id < 0:
            object.__setattr__(self, "max_id", int(self.ids.max()))
        if self.learned < 0:
            object.__setattr__(self, "learned", int(self.learn.sum()))

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Specials:
    """What a tokenizer puts around a text: the ids before it, and the id of the end (None: it has none).
    The end is the token that says so; where none does, as with BERT, the last one that is put behind a text."""

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
    end = tokenizer.eos_token_id
    if end is None and len(whole) > count + len(bare):
        end = whole[-1]
    return Specials(tuple(whole[:count]), end)


def tokenise(corpus: Corpus, tokenizer: Any, loss_on: LossOn = "response") -> Tokens:
    """All documents, each once, in order: start tokens, the text's tokens, the end token.

    The end token is learned like any other, whatever the padding token is. With `loss_on="response"` the targets of
    instruction records are the answers and the token that ends each of them. A document is never truncated here.
    """
    held = list(chunks(corpus, tokenizer, loss_on))
    offsets = np.cumsum(np.concatenate([[0], *(c.lengths for c in held)]), dtype=np.int64)
    ids, learn = np.concatenate([c.ids for c in held]), np.concatenate([c.learn for c in held])
    return Tokens(corpus.name, ids, learn, offsets, any(c.instruct for c in held), sum(c.num_bytes for c in held))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some documents in a row: ids and learn as in Tokens, lengths int64 [documents]; num_bytes: of their text."""

    ids: NDArray[np.int32]
    learn: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    instruct: bool
    num_bytes: int


def chunks(corpus: Corpus, tokenizer: Any, loss_on: LossOn = "response") -> Iterator[Chunk]:
    """The tokens of a corpus in order, a batch of documents at a time.

    A thread encodes a batch (the library's own threads share it) while the next one is read and rendered.
    """
    marks = specials(tokenizer)

    def rendered() -> Iterator[tuple[list[Rendered], bool]]:
        for batch in _batches(documents(corpus)):
            found = [render(document, tokenizer, answers=loss_on == "response") for document in batch]
            yield found, batch[0].text is None

    first = True
    for (batch, instruct), encoded in _ahead(rendered(), lambda one: encode(one[0], tokenizer)):
        if first and not any(content for content, _ in encoded) and any(one.text.strip() for one in batch):
            # as where the library reads another kind's tokenizer.json by the class of the model's family
            raise SurgeonError(
                f"{type(tokenizer).__name__} makes no token of the texts",
                str(corpus.path),
                f"look at the tokenizer of {tokenizer.name_or_path}: is it one of its model's family?",
            )
        first = False
        ids, learn = [], []
        for one, (content, spans) in zip(batch, encoded, strict=True):
            mask = targets(one, content, spans, tokenizer) if loss_on == "response" else None
            document_ids, document_learn = _wrap(one, content, mask, marks)
            ids.append(document_ids)
            learn.append(document_learn)
        lengths = np.asarray([len(i) for i in ids], dtype=np.int64)
        num_bytes = sum(len(one.text.encode("utf-8")) for one in batch)
        yield Chunk(np.concatenate(ids), np.concatenate(learn), lengths, instruct, num_bytes)


def _ahead(source: Iterator[_T], work: Callable[[_T], _R]) -> Iterator[tuple[_T, _R]]:
    """Each item with what `work` makes of it in a thread, while the item after it is taken from the source."""
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[_T, Future[_R]] | None = None
        for item in source:
            following = item, pool.submit(work, item)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def encode(rendered: list[Rendered], tokenizer: Any) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Token ids without special tokens of the tokenizer's own, and the characters each covers (for answers only)."""
    texts = [r.text for r in rendered]
    spans_wanted = any(r.answers for r in rendered)
    if not spans_wanted and _is_plain(tokenizer):
        # what the call below comes to, without offsets, which nobody wants, and without copies
        tokenizer("", add_special_tokens=False)  # as it does: no truncation, no padding
        return [(e.ids, []) for e in tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    found = tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=spans_wanted,
        return_attention_mask=False,
        verbose=False,  # "longer than the model's maximum": long documents are split later
    )
    spans = found["offset_mapping"] if spans_wanted else [[] for _ in rendered]
    return list(zip(found["input_ids"], spans, strict=True))


def _is_plain(tokenizer: Any) -> bool:
    """Whether a call of the tokenizer is a call of the tokenizers library and nothing more."""
    from transformers import TokenizersBackend

    names = ("__call__", "_encode_plus", "set_truncation_and_padding")
    return all(getattr(type(tokenizer), name) is getattr(TokenizersBackend, name) for name in names)


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
    special = np.isin(np.asarray(content), _special_ids(tokenizer))
    for last in np.flatnonzero(mask[:-1] & ~mask[1:]).tolist():
        # some templates write white space between an answer and its end: without it the model never comes there
        stop = last + 1
        while stop < len(content) and not special[stop] and not one.text[slice(*spans[stop])].strip():
            stop += 1
        if stop < len(content) and special[stop]:
            mask[last + 1 : stop + 1] = True
    return mask


def _special_ids(tokenizer: Any) -> NDArray[np.int64]:
    """Also those that have no role by name, as the end of a turn has none in many families."""
    added = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
    return np.asarray(sorted({*tokenizer.all_special_ids, *added}), dtype=np.int64)


def _wrap(
    one: Rendered, content: list[int], mask: NDArray[np.bool_] | None, marks: Specials
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    learn = np.ones(len(content), dtype=np.bool_) if mask is None else mask
    # a chat template may write the start itself
    start = () if tuple(content[: len(marks.start)]) == marks.start else marks.start
    last = int(np.flatnonzero(learn)[-1]) if learn.any() else len(content) - 1
    ended = marks.end is None or marks.end in content[last if one.answers else len(content) - 1 :]
    end = () if ended or marks.end is None else (marks.end,)
    ids = np.empty(len(start) + len(content) + len(end), dtype=np.int32)
    ids[: len(start)], ids[len(start) : len(ids) - len(end)], ids[len(ids) - len(end) :] = start, content, end
    return ids, np.concatenate([np.zeros(len(start), np.bool_), learn, np.ones(len(end), np.bool_)])


def _batches(source: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in source:
        batch.append(document)
        size += len(document.text) if document.text is not None else sum(len(m["content"]) for m in document.messages)
        if len(batch) == _BATCH or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
