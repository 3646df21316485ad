"""Next-token loss and divergence from a teacher, token by token, over chunks of both models' logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from surgeon.data.pack import IGNORED
from surgeon.train.batch import Batch
from surgeon.train.cross_entropy import CrossEntropy
from surgeon.train.forward import Forward
from surgeon.train.teacher import Rows, Teacher

Change = Callable[[Tensor, Tensor], Tensor]  # the teacher's logits [tokens, V] for labels [tokens] (none below 0)


@dataclass(frozen=True)
class Divergence:
    """weight: of T^2 KL(softmax(t / T) || softmax(s / T)) beside the cross-entropy; t, s: logits of the teacher and of
    the student, T: `temperature` (its square keeps the gradient's size: Hinton et al. 2015, 1503.02531). change: of
    the teacher's logits. learned, compared: bool [rows, tokens] like the labels, the tokens whose label is learned and
    those whose distribution is compared, of those that have a label; None: all of them."""

    weight: float
    temperature: float = 1.0
    change: Change | None = None
    learned: Tensor | None = None
    compared: Tensor | None = None


def distilled(
    forward: Forward, teacher: Teacher, batch: Batch, arguments: Mapping[str, Any], divergence: Divergence
) -> Tensor:
    """The loss of a batch, summed over the labels that count, in nats; softmaxes and sums in float32.

    Where the teacher's logits are the student's, the divergence and its gradient are zero, to the bit.
    """
    labels = batch.labels.reshape(-1)
    compared = labels != IGNORED
    if divergence.compared is not None:
        compared = compared & divergence.compared.reshape(-1)
    nats = labels
    if divergence.learned is not None:
        nats = labels.masked_fill(~divergence.learned.reshape(-1), IGNORED)
    if divergence.compared is not None and not teacher.needed(bool(compared.any())):  # without replay no teacher
        return forward.token_loss(arguments, CrossEntropy(nats))
    rows = teacher.rows(arguments)
    with teacher.known():
        return forward.token_loss(arguments, _Loss(CrossEntropy(nats), rows, labels, compared, divergence))


class _Loss:
    def __init__(self, nats: CrossEntropy, rows: Rows, labels: Tensor, compared: Tensor, how: Divergence) -> None:
        self._nats, self._rows, self._labels, self._compared, self._how = nats, rows, labels, compared, how

    def __call__(self, logits: Tensor, part: slice, need: bool) -> tuple[Tensor, Tensor | None]:
        how, counts = self._how, self._compared[part]
        teacher = self._rows[part]
        if how.change is not None:
            teacher = how.change(teacher, self._labels[part].clamp(min=0))
        each, further = divergences(logits, teacher, how.temperature, need)
        total, gradient = self._nats(logits, part, need)
        total = total + how.weight * torch.where(counts, each, 0.0).sum()
        if gradient is not None and further is not None:
            further *= how.weight * counts[:, None]
            gradient += further
        return total, gradient


def divergences(student: Tensor, teacher: Tensor, temperature: float, need: bool) -> tuple[Tensor, Tensor | None]:
    """(T^2 KL(softmax(teacher / T) || softmax(student / T)) of every token, its gradient in the student's logits).

    student, teacher: float32 [tokens, V]. The gradient T (p_student - p_teacher) is written down, not derived: by
    autograd it is not zero between equal distributions, whose sums are 1 only nearly.
    """
    ours, theirs = (F.log_softmax(logits / temperature, dim=-1) for logits in (student, teacher))
    shares = theirs.exp()
    each = temperature**2 * (shares * (theirs - ours)).sum(-1)
    return each, (ours.exp_() - shares) * temperature if need else None
