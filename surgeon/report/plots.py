"""Plots as inline SVG: matplotlib draws, the page colours (so that one file is read in light and in dark)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from surgeon.checkpoint.lineage import BlockProbe
from surgeon.expand.scores_plot import SIZE, draw_scores
from surgeon.figure import svg_text
from surgeon.report.curves import Curves, Line
from surgeon.report.deltas import Heat
from surgeon.report.forgetting import Lost, draw_lost
from surgeon.search.front_plot import Colours, draw_search
from surgeon.search.front_plot import size as search_size
from surgeon.search.record import SearchRecord
from surgeon.words import short, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 3  # held-out corpora side by side
LONGEST_TITLE = 28  # characters of a corpus's name over its panel
# Stand-in colours that the page's variables replace.
_INK, _GRID, _LOSS, _LR, _EVAL = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {
    _INK: "var(--ink)",
    _GRID: "var(--grid)",
    _LOSS: "var(--loss)",
    _LR: "var(--lr)",
    _EVAL: "var(--eval)",
}


def drawable(line: Line) -> bool:
    """Has the curve a point at all?"""
    return any(map(math.isfinite, line.y))


def training_svg(curves: Curves, name: str, label: str) -> Markup:
    """Loss over learning rate on one axis. name: prefix of the ids, unique on the page. label: for screen readers."""

    def draw(figure: Figure) -> None:
        panels = [(curves.loss, "loss, nats per token", _LOSS, 3.0), (curves.lr, "learning rate", _LR, 1.2)]
        shown = [panel for panel in panels if drawable(panel[0])]
        axes: list[Axes] = figure.subplots(
            len(shown), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [panel[3] for panel in shown]}
        ).ravel().tolist()  # fmt: skip
        for (line, unit, colour, _), ax in zip(shown, axes, strict=True):
            _line(ax, line, colour, marker=False)
            _title(ax, unit)
            _axis(ax)
        axes[-1].set_xlabel(curves.axis)

    return _svg(draw, (7.2, 3.8), name, label)


def eval_svg(curves: Curves, name: str, label: str) -> Markup:
    """A panel for every held-out corpus, each with its own scale: a small loss shows beside a large gain."""
    lines = [line for line in curves.evals if drawable(line)]
    num_rows = math.ceil(len(lines) / PANELS)
    num_columns = min(PANELS, len(lines))

    def draw(figure: Figure) -> None:
        axes: list[Axes] = figure.subplots(num_rows, num_columns, squeeze=False).ravel().tolist()
        for line, ax in zip(lines, axes, strict=False):
            _line(ax, line, _EVAL, marker=True)
            _title(ax, _short_title(line.name))
            _axis(ax, ticks=4)
            ax.set_xlabel(curves.eval_axis)
        for ax in axes[len(lines) :]:
            ax.set_axis_off()

    return _svg(draw, (7.2, 2.1 * num_rows), name, label)


def lost_svg(shown: Sequence[Lost], name: str, label: str) -> Markup:
    """A panel for every corpus that got worse on the way: the loss minus the first one against the step."""
    num_rows = math.ceil(len(shown) / PANELS)

    def draw(figure: Figure) -> None:
        axes: list[Axes] = figure.subplots(num_rows, min(PANELS, len(shown)), squeeze=False).ravel().tolist()
        for curve, ax in zip(shown, axes, strict=False):
            _title(ax, _short_title(curve.line.name))
            _axis(ax, ticks=4)
            draw_lost(ax, curve, plain=_EVAL, mark=_LOSS, grid=_INK)
            ax.set_xlabel("step")
        for ax in axes[len(shown) :]:
            ax.set_axis_off()

    return _svg(draw, (7.2, 2.1 * num_rows), name, label)


def learning_svg(points: Sequence[tuple[int, int]], name: str, label: str) -> Markup:
    """Tokens of the learning corpus against tokens added."""

    def draw(figure: Figure) -> None:
        ax: Axes = figure.subplots()
        _line(ax, Line("", [float(x) for x, _ in points], [float(y) for _, y in points]), _LOSS, marker=False)
        _title(ax, "tokens of the corpus")
        _axis(ax)
        ax.yaxis.set_major_formatter(lambda y, _: short(y))
        ax.set_xlabel("tokens added")

    return _svg(draw, (7.2, 2.6), name, label)


def scores_svg(probe: BlockProbe, chosen: Sequence[int], name: str, label: str) -> Markup:
    """What each block of the parent scored on the probe; the copied ones in another colour."""

    def draw(figure: Figure) -> None:
        ax: Axes = figure.subplots()
        draw_scores(ax, probe, chosen, ink=_INK, plain=_LR, mark=_LOSS)
        _axis(ax)
        ax.set_xlabel("block of the parent")

    return _svg(draw, SIZE, name, label)


def heat_svg(heat: Heat, name: str, label: str) -> Markup:
    """A cell for each block of each part, the fuller the larger its value; below zero in another colour."""
    from matplotlib.patches import Rectangle

    def draw(figure: Figure) -> None:
        ax: Axes = figure.subplots()
        for row, part in enumerate(heat.parts):
            for block in range(heat.blocks):
                value = heat.values.get((part, block))
                if value is not None and heat.largest:
                    fill = _LOSS if value >= 0 else _LR
                    ax.add_patch(
                        Rectangle((block - 0.5, row - 0.5), 1, 1, facecolor=fill, alpha=abs(value) / heat.largest)
                    )
        _axis(ax)
        _title(ax, f"{heat.title}; full: {heat.largest:.3g}")
        ax.grid(False)
        ax.set_xlim(-0.5, heat.blocks - 0.5)
        ax.set_ylim(len(heat.parts) - 0.5, -0.5)
        ax.set_yticks(range(len(heat.parts)), heat.parts)
        ax.set_xlabel("block")

    return _svg(draw, (7.2, 0.9 + 0.24 * len(heat.parts)), name, label)


def search_svg(record: SearchRecord, vectors: Sequence[str], name: str, label: str) -> Markup:
    """The points that a search evaluated, by their losses; vectors: their names."""
    colours = Colours(ink=_INK, plain=_EVAL, best=_LOSS, mark=_LR, grid=_GRID)
    shown = [visible(vector) for vector in vectors]
    return _svg(lambda figure: draw_search(figure, record, shown, colours), search_size(record), name, label)


def models_svg(models: Sequence[str], lines: Sequence[Line], name: str, label: str) -> Markup:
    """A panel for every corpus, each with its own scale: a value for each model, which stand side by side."""
    num_rows = math.ceil(len(lines) / PANELS)

    def draw(figure: Figure) -> None:
        axes: list[Axes] = figure.subplots(num_rows, min(PANELS, len(lines)), squeeze=False).ravel().tolist()
        for line, ax in zip(lines, axes, strict=False):
            _line(ax, line, _EVAL, marker=True)
            _title(ax, _short_title(line.name))
            _axis(ax)
            ax.set_xticks(line.x, models)
            ax.margins(x=0.2)
        for ax in axes[len(lines) :]:
            ax.set_axis_off()

    return _svg(draw, (7.2, 2.1 * num_rows), name, label)


def _short_title(name: str) -> str:
    text = visible(name)
    return text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 1] + "…"


def _line(ax: Axes, line: Line, colour: str, marker: bool) -> None:
    finite = sum(map(math.isfinite, line.y))
    ax.plot(
        line.x, line.y, color=colour, linewidth=1.4, marker="o" if marker or finite < 3 else "", markersize=3,
    )  # fmt: skip


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, loc="left", color=_INK, fontsize=9, parse_math=False)


def _axis(ax: Axes, ticks: int = 6) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.grid(True, color=_GRID, linewidth=0.6)
    ax.tick_params(colors=_INK, labelsize=8, length=0)
    ax.xaxis.label.set_color(_INK)
    ax.xaxis.label.set_fontsize(8)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_GRID)
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.4g}"))


def _svg(draw: Any, size: tuple[float, float], name: str, label: str) -> Markup:
    """Draw on a fresh figure and give an inline <svg>."""
    return Markup(_inline(svg_text(draw, size, name), name, label))


def _inline(svg: str, name: str, label: str) -> str:
    """The drawing as part of an HTML page: no prolog, no name spaces, own ids, the page's colours and font."""
    found = re.search(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>(.*)</svg>', svg, re.DOTALL)
    assert found, "matplotlib writes one svg element with a viewBox"
    box, body = found.groups()
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', body)
    body = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub("|".join(_VARIABLES), lambda m: _VARIABLES[m.group()], body)
    opening = Markup('<svg class="plot" role="img" aria-label="{}" viewBox="{}">').format(visible(label), box)
    return f"{opening}{body}</svg>"
