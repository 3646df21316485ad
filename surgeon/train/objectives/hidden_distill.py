"""Learning a text and keeping a teacher's hidden states on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from surgeon.data.pack import IGNORED
from surgeon.train.batch import Batch
from surgeon.train.documents import documents, means
from surgeon.train.forward import Forward
from surgeon.train.hook import Run
from surgeon.train.outline import Outline
from surgeon.train.strength import Strength
from surgeon.train.teacher import Teacher, check_width, of_run

Of = Literal["mean", "last", "tokens"]


def of_one_width(run: Run, options: Mapping[str, Any]) -> Teacher:
    """A teacher whose hidden states are as long as the model's."""
    teacher = of_run(run, options)
    check_width(teacher.forward.model, run.model)
    return teacher


def FITS(outline: Outline, options: Mapping[str, Any]) -> None:  # noqa: N802 - a trait that depends on the run
    """Refuse a teacher of another width."""
    if outline.other is not None:
        check_width(outline.other, outline.model)


MAKES, KEEPS, ANY_TEACHER = {"teacher": of_one_width}, ("anchors",), True
NEUTRAL = {"weight": 0.0}


def hidden_distill(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], teacher: Teacher, *,
    weight: Strength = 1.0, of: Of = "mean",
) -> Tensor:  # fmt: skip
    """Cross-entropy plus `weight` times the squared distance of what the head reads from what the teacher's reads.

    of: mean, of the tokens with a label of a document (in a window); last, of its last one; tokens, each by itself.
    Each document counts as often as it has labels, so the loop's mean is one over labels. Arithmetic in float32.
    The paper trains a masked model on the one vector of its first token, over a text without masks; a causal model has
    no such vector, so mean and last are our adaptation, and it reads the text once for both losses. In the paper the
    teacher is trained on the text first, and the student starts anew where the teacher did: train once, then again
    from the same model with --teacher. Weight 0 is next_token, to the byte.
    Source: Lee et al. 2023 (2210.02871), self-distillation for further pre-training
    """
    if weight == 0:
        return forward.nats(batch, arguments)
    known = teacher.hidden(arguments)
    with teacher.known(), forward.head_input() as held:
        nats = forward.nats(batch, arguments)
    moved = held[0].reshape(known.shape).float() - known.float()
    return nats + weight * _distance(moved, batch, of)


def _distance(moved: Tensor, batch: Batch, of: Of) -> Tensor:
    """Squared norms of [tokens, H], summed over labels."""
    counts = batch.labels.reshape(-1) != IGNORED
    if of == "tokens":
        return (moved.square().sum(-1) * counts).sum()
    mean, labels = means(moved, batch)
    if of == "mean":
        return (labels * mean.square().sum(-1)).sum()
    numbers, number = documents(batch)
    places = torch.arange(len(counts), device=moved.device)
    last = places.new_zeros(number).scatter_reduce(0, numbers, places * counts, "amax")
    return (labels * moved[last].square().sum(-1)).sum()
