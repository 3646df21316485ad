"""What a fill gets and returns: where a new block stands, and the source of the first value of its tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from surgeon.arch.family import Family
from surgeon.expand.layout import Placed
from surgeon.ops.plan import Apply, Copy, Source, Zeros

LR_MULTIPLIER = 10.0  # of a silenced gain, which alone gets a gradient at first


@dataclass(frozen=True)
class Filled:
    """sources: name of the source block's tensor -> source, for every tensor of that block.

    lr_multipliers: part -> what the learning rate of its tensors should be multiplied by in training.
    """

    sources: Mapping[str, Source]
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gap:
    """The place of a new block: between the old blocks `before` and `after` (None: nothing follows), as the
    `number`-th, from 1, of the `count` new ones that stand there."""

    before: int
    after: int | None
    number: int
    count: int


def gaps(placed: Sequence[Placed]) -> dict[int, Gap]:
    """The gap of every new block, by its number in the output."""
    found: dict[int, Gap] = {}
    before, waiting = 0, list[int]()
    for position, block in enumerate([*placed, None]):
        if block is not None and block.new:
            waiting.append(position)
            continue
        after = None if block is None else block.source
        found |= {p: Gap(before, after, k + 1, len(waiting)) for k, p in enumerate(waiting)}
        before, waiting = (block.source if block is not None else before), []
    return found


def copies(family: Family, block: int) -> dict[str, Source]:
    """Every tensor of the block as it is in the input with the role "model"."""
    return {name: Copy("model", name) for name in family.blocks[block]}


def identity_start(family: Family, block: int) -> dict[str, Source]:
    """As `copies`, with 1 for a factor on the block's whole output: the start of a fill that keeps the function."""
    sources = copies(family, block)
    for name in sources:
        value = family.declaration.neutral.get(family.unit(name).part)
        if value is not None:
            sources[name] = Apply("kernel:constant", options={"value": value})
    return sources


def silence_norms(
    sources: dict[str, Source], family: Family, gains: Mapping[str, float], lr_multiplier: float = LR_MULTIPLIER
) -> dict[str, float]:
    """Give the norms of these parts the gains that silence them, in place, and return the multipliers to record."""
    for name in sources:
        gain = gains.get(family.unit(name).part)
        if gain is not None:
            sources[name] = Zeros() if gain == 0 else Apply("kernel:constant", options={"value": gain})
    return dict.fromkeys(gains, lr_multiplier)


def silence_writers(sources: dict[str, Source], family: Family, writers: Collection[str]) -> None:
    """Zero the parts of these patterns, weights and biases, in place."""
    for name in sources:
        if family.writer(family.unit(name).part) in writers:
            sources[name] = Zeros()
