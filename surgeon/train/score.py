"""Nats of documents under a model: every token once, with as much context as the model has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from surgeon.data.source import Corpus, Document, documents
from surgeon.data.template import render
from surgeon.data.tokens import answer_tokens, encode, specials
from surgeon.errors import SurgeonError, UsageError
from surgeon.loading import context_length

MAX_CONTEXT = 4096  # windows are not longer than this unless asked for: attention and logits grow with them
# elements of one batch of logits: what stays near a CPU's caches, and 1 GiB in float32 on a GPU
_LOGIT_BUDGET = {"cpu": 1 << 22, "cuda": 1 << 28}


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


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over documents; nats in float64."""

    documents: int
    tokens: int
    num_bytes: int
    words: int
    nats: float

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        return self.nats / float(np.log(2)) / self.num_bytes


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


def score_documents(model: Any, tokenizer: Any, held: Sequence[Document], context: int | None = None) -> Score:
    """The score of some documents under a loaded model; see `prepare` and `score`."""
    return score(model, prepare(held, tokenizer), window_length(model, context))


def window_length(model: Any, context: int | None) -> int:
    """The context to score with: as asked, at most the model's own; by default the model's, up to MAX_CONTEXT."""
    own = context_length(model)
    if context is None:
        return min(own or MAX_CONTEXT, MAX_CONTEXT)
    if context < 4 or (own is not None and context > own):
        raise UsageError(
            f"a context of {context} tokens does not suit the model", "--context", f"give 4 to {own or 'any number'}"
        )
    return context


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
            if not before:
                first = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
                num_bytes -= len(text[: first["offset_mapping"][0][1]].encode("utf-8"))
        ids = np.asarray([*before, *content], dtype=np.int64)
        mask = np.concatenate([np.zeros(len(before), np.bool_), scored])
        mask[0] = False
        items.append(Item(ids, mask, len(before), num_bytes, len(text.split())))
    return items


@torch.no_grad()
def score(model: Any, items: Sequence[Item], context: int) -> Score:
    """The sum over items. Documents longer than `context` are read in windows that overlap by half of it and
    all begin with the start, so that every scored token is scored exactly once, sees at least half a context of what
    comes before it, and stands behind the start that models are trained to find there.

    Probabilities from logits in float32, summed in float64. Runs in eval mode and restores the mode.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total = 0.0
    budget = _LOGIT_BUDGET[device.type] // model.config.get_text_config().vocab_size
    try:
        for group in _groups(_windows(items, context), budget):
            size = max(len(row) for row, _ in group)
            ids = np.zeros((len(group), size), dtype=np.int64)
            labels = np.full((len(group), size), -100, dtype=np.int64)
            for row, (window_ids, window_labels) in enumerate(group):
                ids[row, : len(window_ids)] = window_ids
                labels[row, : len(window_ids)] = window_labels
            # padding stands behind the text, where a causal model cannot see it: no mask is needed
            logits = model(input_ids=torch.from_numpy(ids).to(device), use_cache=False).logits
            nats = F.cross_entropy(
                logits.reshape(-1, logits.shape[-1]).float(),
                torch.from_numpy(labels).to(device).reshape(-1),
                ignore_index=-100,
                reduction="none",
            )
            total += float(nats.double().sum())
    finally:
        model.train(was_training)
    if not math.isfinite(total):
        raise SurgeonError(
            f"the model's loss is not a number ({total})",
            str(model.config.name_or_path),
            "`surgeon inspect` names tensors that hold NaN or infinity",
        )
    return Score(
        documents=len(items),
        tokens=sum(i.num_tokens for i in items),
        num_bytes=sum(i.num_bytes for i in items),
        words=sum(i.num_words for i in items),
        nats=total,
    )


Window = tuple[NDArray[np.int64], NDArray[np.int64]]  # ids and, shifted to the token before, labels


def _windows(items: Sequence[Item], context: int) -> Iterator[Window]:
    for item in items:
        length, begin, first = len(item.ids), 0, 1
        start = item.ids[: item.num_start]
        while first < length:
            ids = item.ids[:context] if begin == 0 else np.concatenate([start, item.ids[begin:]])[:context]
            stop = begin + len(ids) - (len(start) if begin else 0)
            if item.scored[first:stop].any():
                labels = np.full(len(ids), -100, dtype=np.int64)
                targets = np.where(item.scored[first:stop], item.ids[first:stop], -100)
                labels[len(ids) - 1 - (stop - first) : len(ids) - 1] = targets
                yield ids, labels
            begin, first = stop - context // 2, stop


def _groups(windows: Iterable[Window], budget: int) -> Iterator[list[Window]]:
    """Windows of like length together, at most `budget` tokens at a time (but at least one window)."""
    group: list[Window] = []
    for window in sorted(windows, key=lambda w: -len(w[0])):
        if group and (len(group) + 1) * len(group[0][0]) > budget:
            yield group
            group = []
        group.append(window)
    if group:
        yield group
