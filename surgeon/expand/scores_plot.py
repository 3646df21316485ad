"""The scores of blocks as a drawing, with their intervals; the blocks that were chosen stand out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgeon.checkpoint.lineage import BlockProbe
from surgeon.figure import svg_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PLAIN, CHOSEN, GRID = "#333333", "#7a8ba0", "#c2542d", "#dddddd"
SIZE = (7.2, 2.8)


def draw_scores(
    ax: Axes, probe: BlockProbe, chosen: Sequence[int], ink: str = INK, plain: str = PLAIN, mark: str = CHOSEN
) -> None:
    """A point with its interval for every block."""
    for colour, mine in ((plain, False), (mark, True)):
        held = [s for s in probe.scores if (s.block in chosen) == mine]
        if not held:
            continue
        below = [max(s.score - s.low, 0.0) for s in held]
        above = [max(s.high - s.score, 0.0) for s in held]
        ax.errorbar(
            [s.block for s in held], [s.score for s in held], yerr=[below, above], fmt="o", markersize=4, color=colour,
            ecolor=colour, elinewidth=1.2, label="copied" if mine else "left alone",
        )  # fmt: skip
    if probe.unit != "cosine":
        ax.axhline(0, color=ink, linewidth=0.6)
    title = f"{probe.selector}, {probe.unit}; {probe.level:.0%} intervals of {probe.documents} documents"
    ax.set_title(title, loc="left", fontsize=9, color=ink, parse_math=False)


def scores_svg(probe: BlockProbe, chosen: Sequence[int]) -> str:
    """A file of its own, on white."""
    from matplotlib.ticker import MaxNLocator

    def draw(figure: Figure) -> None:
        ax: Axes = figure.subplots()
        draw_scores(ax, probe, chosen)
        ax.grid(True, color=GRID, linewidth=0.6)
        ax.set_xlabel("block")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for side, spine in ax.spines.items():
            spine.set_visible(side in ("bottom", "left"))
        ax.legend(frameon=False, fontsize=8)

    return svg_text(draw, SIZE, f"{probe.selector}-{probe.corpus_digest}", "#ffffff")
