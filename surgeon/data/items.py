"""Documents as a model reads them to be scored: token ids, which of them count, windows of a context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgeon.data.pack import IGNORED
from surgeon.data.source import Corpus, Document, documents
from surgeon.data.template import render
from surgeon.data.tokens import answer_tokens, encode, specials
from surgeon.errors import SurgeonError


@dataclass(frozen=True, slots=True)
class Item:
    """A document to score. ids: int64 [tokens], its first `num_start` are the start that stands before a text.
    scored: bool [tokens], never the first. num_bytes, num_words: of the text that the scored tokens spell (UTF-8;
    words between white space)."""

    ids: NDArray[np.int64]
    scored: NDArray[np.bool_]
    num_start: int
    num_bytes: int
    num_words: int

    @property
    def num_tokens(self) -> int:
        return int(self.scored.sum())


def take(corpus: Corpus, tokenizer: Any, tokens: int | None) -> list[Document]:
    """Documents in order until `tokens` tokens are reached (the last one whole); all of them for None."""
    held: list[Document] = []
    count = 0
    for document in documents(corpus):
        held.append(document)
        if tokens is not None:
            count += prepare([document], tokenizer)[0].num_tokens
            if count >= tokens:
                break
    return held


def prepare(held: Sequence[Document], tokenizer: Any) -> list[Item]:
    """Documents as the model reads them.

    A text starts with what the tokenizer puts before it, else with its end token, and is scored from its first
    token on; a tokenizer that has neither leaves the first token unscored, and its bytes are not counted. The end
    token is not scored. Of a conversation the answers are scored, given what comes before them.
    """
    marks = specials(tokenizer)
    start = list(marks.start) or ([marks.end] if marks.end is not None else [])
    rendered = [render(document, tokenizer) for document in held]
    items = []
    for one, (content, spans) in zip(rendered, encode(rendered, tokenizer), strict=True):
        if one.answers:
            scored = answer_tokens(one, spans)
            text = "\n".join(one.text[a:b] for a, b in one.answers)
            num_bytes = sum(len(one.text[a:b].encode("utf-8")) for a, b in one.answers)
            before = list(marks.start) if tuple(content[: len(marks.start)]) != marks.start else []
        else:
            scored, text, before = np.ones(len(content), dtype=np.bool_), one.text, start
            num_bytes = len(text.encode("utf-8"))
            if not before and content:
                first = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
                num_bytes -= len(text[: first["offset_mapping"][0][1]].encode("utf-8"))
        ids = np.asarray([*before, *content], dtype=np.int64)
        mask = np.concatenate([np.zeros(len(before), np.bool_), scored])
        mask[:1] = False
        items.append(Item(ids, mask, len(before), num_bytes, len(text.split())))
    return items


class Window(NamedTuple):
    """A part of a document: ids and, shifted to the token before, labels (IGNORED where nothing is scored), both
    int64 [tokens]; `item` is the number of its document."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    item: int


def windows(items: Sequence[Item], context: int) -> Iterator[Window]:
    """The windows of documents. Those longer than `context` are read in windows that overlap by half of it and all
    begin with the start, so that every scored token is scored exactly once, sees at least half a context of what
    comes before it, and stands behind the start that models are trained to find there. Raises SurgeonError where a
    context has no room for that: the start and its overlap with the window before would fill it."""
    for number, item in enumerate(items):
        length, begin, first = len(item.ids), 0, 1
        least = max(2, 2 * item.num_start + 1)
        if context < min(least, length):
            raise SurgeonError(
                f"windows of {context} tokens are too short: they overlap by half and begin with the start of a text "
                f"({item.num_start} tokens)",
                f"context {context}",
                f"give a context of {least} tokens or more",
            )
        start = item.ids[: item.num_start]
        while first < length:
            ids = item.ids[:context] if begin == 0 else np.concatenate([start, item.ids[begin:]])[:context]
            stop = begin + len(ids) - (len(start) if begin else 0)
            if item.scored[first:stop].any():
                labels = np.full(len(ids), IGNORED, dtype=np.int64)
                targets = np.where(item.scored[first:stop], item.ids[first:stop], IGNORED)
                labels[len(ids) - 1 - (stop - first) : len(ids) - 1] = targets
                yield Window(ids, labels, number)
            begin, first = stop - context // 2, stop


def groups(held: Iterable[Window], budget: int) -> Iterator[list[Window]]:
    """Windows of like length together, at most `budget` tokens at a time (but at least one window)."""
    group: list[Window] = []
    for window in sorted(held, key=lambda w: -len(w.ids)):
        if group and (len(group) + 1) * len(group[0].ids) > budget:
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def padded(group: Sequence[Window]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(ids, labels) [rows, tokens]; padding stands behind the text, where a causal model cannot see it, and is not
    scored: no mask is needed."""
    size = max(len(window.ids) for window in group)
    ids = np.zeros((len(group), size), dtype=np.int64)
    labels = np.full((len(group), size), IGNORED, dtype=np.int64)
    for row, window in enumerate(group):
        ids[row, : len(window.ids)] = window.ids
        labels[row, : len(window.labels)] = window.labels
    return ids, labels
