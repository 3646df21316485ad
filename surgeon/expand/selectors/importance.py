"""The blocks that the model misses least, found by leaving each one out on a probe text.

Source: ADEPT (arXiv 2510.10071), stage 1: I(l) = L(l left out) - L, the k least are copied.
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


def importance(
    depth: int, count: int | None, checkpoint: Checkpoint, family: Family, probe: str | None, seed: int,
    progress: Progress, *, order: Literal["least", "most"] = "least", tokens: Positive = 20_000,
    context: Positive = 512, resamples: Positive = 1000, level: Share = 0.95, device: Device = "auto",
) -> Selection:  # fmt: skip
    """The `count` blocks whose bypass (what enters leaves) raises the loss on the probe least, in nats a token.

    Arithmetic in float32, sums in float64; padding is not scored. The state before each block is kept from one pass,
    so that all blocks cost about depth / 2 further passes, and give what leaving them out one by one gives. order:
    `most` takes the most critical ones (the control). tokens: of the probe, in whole documents, read in windows of
    `context`. resamples, level: of the bootstrap over documents. The authors' code sets a block's weights to zero,
    which is the same bypass in models without biases, and counts padding in the loss; here it is left out.
    """
    probing = Probing(tokens, context, resamples, level, device)
    sign = 1.0 if order == "least" else -1.0
    return choose(
        "importance", "nats a token", left_out, count, sign, probe, probing, checkpoint, family, seed, progress
    )


def left_out(stack: Stack, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(loss without block l minus loss [rows, L], loss [rows]) in nats, sums over the scored tokens of each row."""
    import torch

    passage = stack.run(ids)
    whole = nats(passage.logits, labels)
    parts = [
        nats(stack.enter(ids, block + 1, passage.entering[block], passage), labels) - whole
        for block in range(len(stack.blocks))
    ]
    return torch.stack(parts, dim=1), whole


def nats(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each row: float64 [rows] from float32 logits [rows, tokens, V]."""
    import torch.nn.functional as F  # noqa: N812

    from surgeon.data.pack import IGNORED

    found = F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return found.double().sum(1)
