"""The picture of a deepened model: which block came from where, as coordinates for the page to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surgeon.checkpoint.lineage import BlockMap

COLUMNS = 16  # blocks side by side; deeper models take several strips, each with the source blocks that it needs
CELL, BOX, TALL, GAP = 44, 36, 24, 40  # width of a column, of a box, height of a box and of the space between rows


@dataclass(frozen=True)
class Box:
    """A block: left edge, its number; `fill` names how a new block was filled, None marks one that was there."""

    x: float
    block: int
    source: int
    fill: str | None


@dataclass(frozen=True)
class Link:
    """From the middle of a source block (x1, below) to the middle of the block it became (x2, above)."""

    x1: float
    x2: float
    new: bool


@dataclass(frozen=True)
class Strip:
    """A drawing of one group of blocks: sources below, this model's blocks above. Sizes in SVG units."""

    width: float
    height: float
    box: float
    tall: float
    sources: list[Box]
    blocks: list[Box]
    links: list[Link]

    @property
    def below(self) -> float:
        """The top of the row of source blocks."""
        return self.height - self.tall


def strips(blocks: BlockMap) -> list[Strip]:
    """The drawings of a block map, from the first block to the last."""
    fills = {new.block: new.fill for new in blocks.new}
    drawn = []
    for start in range(0, len(blocks.source), COLUMNS):
        group = blocks.source[start : start + COLUMNS]
        sources = sorted(set(group))
        width = len(group) * CELL
        place = {source: (i + 0.5) * width / len(sources) for i, source in enumerate(sources)}
        above = [Box((i + 0.5) * CELL - BOX / 2, start + i, source, fills.get(start + i))
                 for i, source in enumerate(group)]  # fmt: skip
        drawn.append(
            Strip(
                width=width,
                height=2 * TALL + GAP,
                box=BOX,
                tall=TALL,
                sources=[Box(place[s] - BOX / 2, s, s, None) for s in sources],
                blocks=above,
                links=[Link(place[b.source], b.x + BOX / 2, b.fill is not None) for b in above],
            )
        )
    return drawn


def block_map_json(blocks: BlockMap) -> dict[str, Any]:
    """The map in numbers."""
    return blocks.model_dump(mode="json")
