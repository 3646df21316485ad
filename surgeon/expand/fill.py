"""What a fill returns: for every tensor of a new block, the source of its first value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from surgeon.arch.family import Family
from surgeon.ops.plan import Apply, Copy, Source


@dataclass(frozen=True)
class Filled:
    """sources: name of the source block's tensor -> source, for every tensor of that block.

    lr_multipliers: part -> what the learning rate of its tensors should be multiplied by in training.
    """

    sources: Mapping[str, Source]
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)


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
