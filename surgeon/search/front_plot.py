"""A search as a drawing: losses against the weight for one corpus, against each other for several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from surgeon.figure import svg_text
from surgeon.search.record import SearchRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 3  # side by side
LONGEST = 24  # characters of a name in the drawing


@dataclass(frozen=True)
class Colours:
    """ink: of text and lines. plain: points. best: the front. mark: the choice. grid: behind it all."""

    ink: str = "#333333"
    plain: str = "#a9b4c0"
    best: str = "#2c6fb3"
    mark: str = "#c2542d"
    grid: str = "#dddddd"


def size(record: SearchRecord) -> tuple[float, float]:
    """Inches."""
    panels = _panels(record)
    return (7.2, 3.6) if panels == 1 else (7.2, 2.7 * math.ceil(panels / PANELS))


def draw_search(figure: Figure, record: SearchRecord, names: Sequence[str], colours: Colours) -> None:
    """Every evaluated point; the Pareto front, the choice and what has a name stand out. names: of the vectors."""
    panels = _panels(record)
    rows, across = math.ceil(panels / PANELS), min(panels, PANELS)
    axes: list[Axes] = figure.subplots(rows, across, squeeze=False).ravel().tolist()
    if len(record.corpora) == 1:
        for vector, (ax, name) in enumerate(zip(axes, names, strict=False)):
            places = [(point.weights[vector], point.losses[0]) for point in record.points]
            _curve(ax, places, colours)
            _named(ax, places, record, names, colours, panels == 1)
            _axis(ax, f"weight of {_short(name)}", f"{_short(record.corpora[0].name)}, nats per token", colours)
    else:
        pairs = combinations(range(len(record.corpora)), 2)
        for ax, (first, second) in zip(axes, pairs, strict=False):
            places = [(point.losses[first], point.losses[second]) for point in record.points]
            _front(ax, places, record.front, len(record.corpora) == 2, colours)
            _named(ax, places, record, names, colours, panels == 1)
            labels = [f"{_short(record.corpora[i].name)}, nats per token" for i in (first, second)]
            _axis(ax, labels[0], labels[1], colours)
    for ax in axes[panels:]:
        ax.set_axis_off()


def search_svg(record: SearchRecord, names: Sequence[str], salt: str) -> str:
    """A file of its own, on white."""
    return svg_text(lambda figure: draw_search(figure, record, names, Colours()), size(record), salt, "#ffffff")


def _panels(record: SearchRecord) -> int:
    corpora = len(record.corpora)
    return len(record.points[0].weights) if corpora == 1 else corpora * (corpora - 1) // 2


def _curve(ax: Axes, places: Sequence[tuple[float, float]], colours: Colours) -> None:
    """The least loss at each weight of this vector, whatever the others have."""
    least: dict[float, float] = {}
    for x, y in places:
        least[x] = min(y, least.get(x, y))
    ax.plot(*zip(*sorted(least.items()), strict=True), color=colours.best, linewidth=1.4, zorder=2)
    ax.plot(*zip(*places, strict=True), "o", color=colours.plain, markersize=4, zorder=1.5)


def _front(
    ax: Axes, places: Sequence[tuple[float, float]], best: Sequence[bool], line: bool, colours: Colours
) -> None:
    """Points; those of the front in their colour, joined by a line where two corpora are all that there are."""
    rest = [place for place, on in zip(places, best, strict=True) if not on]
    held = sorted(place for place, on in zip(places, best, strict=True) if on)
    if rest:
        ax.plot(*zip(*rest, strict=True), "o", color=colours.plain, markersize=4, zorder=1.5)
    style = "o-" if line else "o"
    ax.plot(*zip(*held, strict=True), style, color=colours.best, markersize=4, linewidth=1.2, zorder=2)


def _named(
    ax: Axes, places: Sequence[tuple[float, float]], record: SearchRecord, names: Sequence[str], colours: Colours,
    words: bool,
) -> None:  # fmt: skip
    """The choice, and the points that have a name: with it where there is room."""
    x, y = places[record.choice]
    ax.plot([x], [y], "D", color=colours.mark, markersize=7, zorder=3)
    if words:
        weights = ", ".join(f"{weight:g}" for weight in record.points[record.choice].weights)
        ax.annotate(
            f"chosen: {weights}", (x, y), xytext=(-6, -12), textcoords="offset points", ha="right", fontsize=8,
            color=colours.mark,
        )  # fmt: skip
    for number, label in record.labels(names).items():
        ax.plot(*places[number], "o", color=colours.ink, markersize=5, fillstyle="none", zorder=3)
        if words:
            ax.annotate(
                _short(label), places[number], xytext=(5, 4), textcoords="offset points", fontsize=8,
                color=colours.ink, parse_math=False,
            )  # fmt: skip


def _axis(ax: Axes, x: str, y: str, colours: Colours) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.grid(True, color=colours.grid, linewidth=0.6)
    ax.tick_params(colors=colours.ink, labelsize=8, length=0)
    for axis, text in ((ax.xaxis, x), (ax.yaxis, y)):
        axis.set_label_text(text, fontsize=8, color=colours.ink, parse_math=False)
        axis.set_major_locator(MaxNLocator(5))
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set_color(colours.grid)
    ax.margins(0.12)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
