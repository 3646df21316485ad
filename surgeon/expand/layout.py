"""Where copies of chosen blocks go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from surgeon.errors import UsageError
from surgeon.ops.plan import runs

Layout = Literal["interleave", "block"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A block of the output: the block of the input that it is taken from, and whether it is an addition."""

    source: int
    new: bool


def lay_out_blocks(depth: int, selected: Sequence[int], layout: Layout) -> list[Placed]:
    """The blocks of the output in order.

    interleave: each copy right after its source. block: the copies of a run of neighbouring blocks follow the run
    as a whole, so that blocks 8 to 23 of 32 give 0..23, 8..31.
    """
    times = Counter(selected)
    if layout == "interleave":
        return [Placed(b, copy > 0) for b in range(depth) for copy in range(1 + times[b])]
    twice = [block for block, count in sorted(times.items()) if count > 1]
    if twice:
        raise UsageError(
            f"the layout block takes a block once, and block {twice[0]} is selected {times[twice[0]]} times",
            "--layout block",
            "use --layout interleave, or expand the result again",
        )
    placed, position = [], 0
    for start, stop in runs(sorted(times)):
        placed += [Placed(b, False) for b in range(position, stop)] + [Placed(b, True) for b in range(start, stop)]
        position = stop
    return placed + [Placed(b, False) for b in range(position, depth)]
