"""What a selector that probed the model returns: the blocks, and what they were chosen by."""

from __future__ import annotations

from dataclasses import dataclass

from surgeon.checkpoint.lineage import BlockProbe


@dataclass(frozen=True)
class Selection:
    """The blocks to copy, ascending, and what they were chosen by."""

    blocks: list[int]
    probe: BlockProbe
