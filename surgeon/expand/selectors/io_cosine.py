"""The blocks that turn what passes through them least: the cosine of what enters and what leaves is near one.

Source: Yi (arXiv 2403.04652), depth up-scaling: blocks 12 to 27 of 32 were doubled for their cosine near one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from surgeon.arch.family import Family
from surgeon.checkpoint.index import Checkpoint
from surgeon.expand.probing import Positive, Probing, Share, choose
from surgeon.expand.selection import Selection
from surgeon.loading import Device
from surgeon.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from surgeon.expand.stack import Stack


def io_cosine(
    depth: int, count: int | None, checkpoint: Checkpoint, family: Family, probe: str | None, seed: int,
    progress: Progress, *, order: Literal["highest", "lowest"] = "highest", tokens: Positive = 20_000,
    context: Positive = 512, resamples: Positive = 1000, level: Share = 0.95, device: Device = "auto",
) -> Selection:  # fmt: skip
    """The `count` blocks with the highest mean cosine between the hidden states that enter and leave them.

    One pass over the probe in float32, cosines and their means in float64, at the positions that the loss scores.
    order: `lowest` is the control. tokens: of the probe, in whole documents, read in windows of `context`. resamples,
    level: of the bootstrap over documents. Yi copied a run of blocks: `--select range` takes the one that the table of
    this selector shows.
    """
    probing = Probing(tokens, context, resamples, level, device)
    sign = -1.0 if order == "highest" else 1.0
    return choose("io_cosine", "cosine", cosines, count, sign, probe, probing, checkpoint, family, seed, progress)


def cosines(stack: Stack, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(cosine of block l [rows, L], loss in nats [rows]), float64, sums over the scored tokens of each row."""
    import torch

    from surgeon.data.pack import IGNORED
    from surgeon.expand.selectors.importance import nats

    passage = stack.run(ids)
    scored = labels != IGNORED
    parts = []
    for block, entering in enumerate(passage.entering):
        found = torch.cosine_similarity(entering.double(), passage.leaving(block).double(), dim=-1)
        parts.append((found * scored).sum(1))
    return torch.stack(parts, dim=1), nats(passage.logits, labels)
