"""The sizes of a run: rows, steps, micro-batches, and a batch that grows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgeon.errors import UsageError
from surgeon.train.batch_ramp import BatchRamp, parse_ramp
from surgeon.train.settings import CptSettings

if TYPE_CHECKING:
    import torch

MAX_DEFAULT_SEQ_LEN = 2048
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}


@dataclass(frozen=True)
class Shape:
    """Sizes of a run. rows: windows of a step, the most of them where a ramp grows to it; micro_batch: windows of a
    forward pass."""

    seq_len: int
    rows: int
    micro_batch: int
    steps: int
    ramp: BatchRamp | None = None

    def windows(self, steps: int) -> int:
        """How many windows the first `steps` steps take."""
        return steps * self.rows if self.ramp is None else self.ramp.windows(steps, self.steps)

    @property
    def tokens(self) -> int:
        """Of the whole run, with padding."""
        return self.windows(self.steps) * self.seq_len


def resolve_shape(settings: CptSettings, context: int | None, device: torch.device) -> Shape:
    """Rows, steps and micro-batches. A batch is the whole rows that --batch-tokens holds: 4k of 256 give 15."""
    seq_len = settings.seq_len or min(context or MAX_DEFAULT_SEQ_LEN, MAX_DEFAULT_SEQ_LEN)
    if context is not None and seq_len > context:
        raise UsageError(
            f"rows of {seq_len} tokens are longer than the model's context of {context}", "--seq-len", "shorten them"
        )
    if seq_len < 2:
        raise UsageError("a row needs at least two tokens", "--seq-len", "give a number from 2 on")
    batch = settings.batch_tokens or 32 * seq_len
    rows = batch // seq_len
    if not rows:
        raise UsageError(
            f"a batch of {batch} tokens does not hold one row of {seq_len}",
            "--batch-tokens",
            f"give {seq_len} or more",
        )
    micro = settings.micro_batch or max(1, min(rows, MICRO_BATCH_TOKENS[device.type] // seq_len))
    windows = math.ceil(settings.all_tokens / seq_len)
    if settings.batch_ramp is None:
        return Shape(seq_len, rows, min(micro, rows), math.ceil(windows / rows))
    ramp = parse_ramp(settings.batch_ramp, seq_len, rows)
    return Shape(seq_len, rows, min(micro, rows), ramp.steps(windows), ramp)
