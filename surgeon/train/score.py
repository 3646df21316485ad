"""Nats of documents under a model: every token once, with as much context as the model has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from surgeon.data.items import Item, groups, padded, prepare, windows
from surgeon.data.pack import IGNORED
from surgeon.data.source import Document
from surgeon.errors import SurgeonError, UsageError
from surgeon.loading import LOGIT_BUDGET, context_length
from surgeon.train import attention

MAX_CONTEXT = 4096  # windows are not longer than this unless asked for: attention and logits grow with them


class NotFiniteError(SurgeonError):
    """The loss of a model on some text is NaN or infinite."""


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


@torch.no_grad()
def score(model: Any, items: Sequence[Item], context: int, between: Callable[[], None] = lambda: None) -> Score:
    """The sum over items, in windows of `context` tokens (see surgeon.data.items). between: called before each forward
    pass; it ends the scoring by raising.

    Raises SurgeonError where the items hold no token (AutoTokenizer makes an empty tokenizer of a folder without one)
    and where the loss is not a number.
    Probabilities from logits in float32, summed in float64. Runs in eval mode and restores the mode.
    """
    if not any(i.num_tokens for i in items):
        raise SurgeonError(
            "the tokenizer makes no token of the texts",
            str(model.config.name_or_path),
            "look whether the tokenizer's files are there and are the model's",
        )
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total = 0.0
    budget = LOGIT_BUDGET[device.type] // model.config.get_text_config().vocab_size
    try:
        for group in groups(windows(items, context), budget):
            between()
            ids, labels = padded(group)
            with attention.texts():
                logits = model(input_ids=torch.from_numpy(ids).to(device), use_cache=False).logits
            nats = F.cross_entropy(
                logits.reshape(-1, logits.shape[-1]).float(),
                torch.from_numpy(labels).to(device).reshape(-1),
                ignore_index=IGNORED,
                reduction="none",
            )
            total += float(nats.double().sum())
    finally:
        model.train(was_training)
    if not math.isfinite(total):
        raise NotFiniteError(
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
