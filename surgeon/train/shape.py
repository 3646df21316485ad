"""The sizes of a run: rows, steps, micro-batches, a batch that grows, and rows that do."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from surgeon.errors import UsageError
from surgeon.train.batch_ramp import BatchRamp, parse_ramp
from surgeon.train.lengths import FLAG, Stage, parse_stages, stage_ends
from surgeon.train.settings import CptSettings

if TYPE_CHECKING:
    import torch

MAX_DEFAULT_SEQ_LEN = 2048
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}


@dataclass(frozen=True)
class Span:
    """Steps with rows of one length: up to step `stop` (from 1), `rows` of `seq_len` tokens each, `micro_batch` of
    them in a forward pass."""

    stop: int
    seq_len: int
    rows: int
    micro_batch: int


@dataclass(frozen=True)
class Shape:
    """Sizes of a run. rows: windows of a step, the most of them where a ramp grows to it; micro_batch: windows of a
    forward pass. stages: of a length curriculum; then seq_len, rows and micro_batch are those of the longest rows,
    and a step has as many tokens with shorter ones."""

    seq_len: int
    rows: int
    micro_batch: int
    steps: int
    ramp: BatchRamp | None = None
    stages: tuple[Stage, ...] = ()

    def windows(self, steps: int) -> int:
        """How many windows (with stages: of the longest) the first `steps` steps take."""
        return steps * self.rows if self.ramp is None else self.ramp.windows(steps, self.steps)

    @property
    def tokens(self) -> int:
        """Of the whole run, with padding."""
        return self.windows(self.steps) * self.seq_len

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The run in parts that have rows of one length; one part without a length curriculum."""
        if not self.stages:
            return (Span(self.steps, self.seq_len, self.rows, self.micro_batch),)
        batch, micro = self.rows * self.seq_len, self.micro_batch * self.seq_len
        return tuple(
            Span(stop, stage.seq_len, batch // stage.seq_len, micro // stage.seq_len)
            for stop, stage in zip(stage_ends(self.steps, self.stages), self.stages, strict=True)
        )

    def at(self, step: int) -> Span:
        """The part that step `step` (from 1) is in."""
        return self.spans[bisect.bisect_left([span.stop for span in self.spans], step)]


def resolve_shape(settings: CptSettings, context: int | None, device: torch.device) -> Shape:
    """Rows, steps and micro-batches. A batch is the whole rows that --batch-tokens holds: 4k of 256 give 15."""
    stages = resolve_stages(settings)
    longest = stages[-1].seq_len if stages else settings.seq_len
    seq_len = longest or min(context or MAX_DEFAULT_SEQ_LEN, MAX_DEFAULT_SEQ_LEN)
    if context is not None and seq_len > context:
        raise UsageError(
            f"rows of {seq_len} tokens are longer than the model's context of {context}",
            FLAG if stages else "--seq-len",
            "shorten them",
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
    odd = next((s.seq_len for s in stages if rows * seq_len % s.seq_len), None)
    if odd is not None:
        raise UsageError(
            f"a step of {rows * seq_len} tokens is no whole number of rows of {odd}: every stage has the same tokens "
            "a step",
            f"{FLAG} {settings.lengths}",
            f"let --batch-tokens be a multiple of {math.lcm(*(s.seq_len for s in stages))}",
        )
    micro = settings.micro_batch or max(1, min(rows, MICRO_BATCH_TOKENS[device.type] // seq_len))
    windows = math.ceil(settings.all_tokens / seq_len)
    if settings.batch_ramp is None:
        shape = Shape(seq_len, rows, min(micro, rows), math.ceil(windows / rows), stages=stages)
        assert shape.spans  # a stage without a step is refused here
        return shape
    ramp = parse_ramp(settings.batch_ramp, seq_len, rows)
    return Shape(seq_len, rows, min(micro, rows), ramp.steps(windows), ramp)


def resolve_stages(settings: CptSettings) -> tuple[Stage, ...]:
    """The stages of --lengths, none without it. Refuses by name what they do not go with."""
    if settings.lengths is None:
        return ()
    stages = parse_stages(settings.lengths)
    if settings.seq_len not in (None, stages[-1].seq_len):
        raise UsageError(
            f"rows of {settings.seq_len} tokens beside lengths that end at {stages[-1].seq_len}",
            "--seq-len",
            f"leave it out: {FLAG} says how long the rows are",
        )
    if settings.batch_ramp:
        raise UsageError(
            f"{FLAG} does not go with --batch-ramp: a step has the same tokens in every stage",
            f"{FLAG} {settings.lengths}",
            "leave one out",
        )
    return stages
