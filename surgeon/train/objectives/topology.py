"""Learning a text and keeping how alike its documents are to a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from surgeon.data.pack import IGNORED, Window
from surgeon.train.batch import Batch
from surgeon.train.documents import means
from surgeon.train.forward import Forward
from surgeon.train.hook import Run
from surgeon.train.strength import Strength, Temperature
from surgeon.train.teacher import Teacher, of_run

MAKES, KEEPS, ANY_TEACHER = {"teacher": of_run}, ("anchors",), True
NEUTRAL = {"weight": 0.0}
LEAST, LOOKED_AT = 3, 8  # documents of a window that has neighbours to compare; steps at whose windows a run looks


def NOTE(run: Run, options: Mapping[str, Any]) -> str:  # noqa: N802 - a declaration, as those above are
    """What a run says where most of its windows hold too few documents."""
    steps = min(LOOKED_AT, run.total)
    held = [_learned(window) for step in range(steps) for window in run.windows(step)]
    few = sum(count < LEAST for count in held)
    if options["weight"] == 0 or 2 * few <= len(held):
        return ""
    return (
        f"{few} of the {len(held)} windows of the first {steps} steps hold fewer than {LEAST} documents, and say "
        "nothing of their neighbours; longer rows (--seq-len) or shorter documents do"
    )


def topology(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], teacher: Teacher, *,
    weight: Strength = 1.0, temperature: Temperature = 0.07,
) -> Tensor:  # fmt: skip
    """Cross-entropy plus `weight` KL(teacher || student) of each document's similarities to the others of its window.

    A document is the mean of what the head reads at its labels, of length 1; the row of its similarities to the other
    documents of the window (not to itself), divided by the temperature, is a distribution. So directions may turn as
    long as neighbours stay neighbours; the teacher may be of another width. A window of fewer than three documents
    says nothing. Each document counts as often as it has labels; arithmetic in float32; a sum, in nats.
    temperature: 0.07 in the authors' code, where it is not trained. Of their four pairs of pictures and texts this is
    the one of texts with texts. There a text is a projection of its first token, and its neighbours are the batch; a
    causal model has no such token, and here a loss must not depend on how windows are dealt to micro-batches and
    processes. Weight 0 is next_token, to the byte.
    Source: Zhu et al. 2023 (2308.07437), CTP, topology preservation
    """
    if weight == 0:
        return forward.nats(batch, arguments)
    known = teacher.hidden(arguments)
    with teacher.known(), forward.head_input() as held:
        nats = forward.nats(batch, arguments)
    student, labels = means(held[0].reshape(-1, held[0].shape[-1]).float(), batch)
    wanted, _ = means(known.float(), batch)
    return nats + weight * divergence(student, wanted, labels, batch, temperature)


def divergence(student: Tensor, teacher: Tensor, labels: Tensor, batch: Batch, temperature: float) -> Tensor:
    """Of vectors of documents, [D, H] each (H may differ), summed over `labels` [D]; float32."""
    with torch.autocast(labels.device.type, enabled=False):
        return _divergence(student, teacher, labels, batch, temperature)


def _divergence(student: Tensor, teacher: Tensor, labels: Tensor, batch: Batch, temperature: float) -> Tensor:
    sizes = torch.tensor(batch.segments, device=labels.device)
    window = torch.arange(len(sizes), device=labels.device).repeat_interleave(sizes, output_size=len(labels))
    near = (window[:, None] == window) & (labels > 0)
    near &= ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    ours, theirs = (_logs(vectors, near, temperature) for vectors in (student, teacher))
    rows = (theirs.exp() * (theirs - ours)).masked_fill(~near, 0).sum(-1)
    return (labels * rows).sum()


def _learned(window: Window) -> int:
    """How many documents of a window have a label."""
    starts = np.cumsum((0, *window.lengths[:-1]))
    return int(np.logical_or.reduceat(window.labels != IGNORED, starts).sum())


def _logs(vectors: Tensor, near: Tensor, temperature: float) -> Tensor:
    """Logarithms of the distributions [D, D]; of one without neighbours the same whatever the vectors are."""
    unit = F.normalize(vectors, dim=-1)
    far = torch.finfo(unit.dtype).min
    return F.log_softmax((unit @ unit.T / temperature).masked_fill(~near, far), dim=-1)
