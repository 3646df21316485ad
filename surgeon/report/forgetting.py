"""What a training forgot, as the page shows it: a row a corpus, and a curve for those that got worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgeon import words
from surgeon.measure.stability import UNITS, forgetting
from surgeon.report.curves import EvalPoint, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Row:
    """A row of the table, as text. lasting: the corpus was above its start and did not come back."""

    name: str
    cells: tuple[str, ...]
    lasting: bool


@dataclass(frozen=True)
class Lost:
    """The loss of a corpus minus its first one against the step; the points to mark, each (step, change)."""

    line: Line
    dip: tuple[float, float]
    back: tuple[float, float] | None


def rows(found: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The table of surgeon.measure.stability.of_evaluations; of a corpus of which nothing is known, dashes."""
    table = []
    for corpus in found:
        dip, back = corpus.get("dip_step"), corpus.get("recovered_at")
        lasting = dip is not None and back is None
        cells = (
            words.signed(corpus.get("forgetting")),
            words.signed(corpus.get("depth")),
            words.plain(dip),
            "not recovered" if lasting else words.plain(back),
        )
        table.append(Row(corpus["name"], cells, lasting))
    return table


def lost(found: Sequence[Mapping[str, Any]], evals: Sequence[EvalPoint]) -> list[Lost]:
    """A curve for every corpus that was above its start by a finite amount."""
    curves = []
    for corpus in found:
        if corpus.get("dip_step") is None or not math.isfinite(corpus["depth"]):
            continue
        field = next(key for key, unit in UNITS.items() if unit == corpus["unit"])
        own = [e for e in evals if e.name == corpus["name"]]
        moved = forgetting([(e.step, getattr(e, field)) for e in own])
        line = Line(corpus["name"], [float(step) for step, _ in moved], [change for _, change in moved])
        changes = dict(moved)
        dip, back = corpus["dip_step"], corpus["recovered_at"]
        marks = (float(dip), changes[dip]), None if back is None else (float(back), changes[back])
        curves.append(Lost(line, *marks))
    return curves


def draw_lost(ax: Axes, shown: Lost, *, plain: str, mark: str, grid: str) -> None:
    """A curve with its start as a level, its dip as a diamond, and as a ring where it was back."""
    ax.axhline(0.0, color=grid, linewidth=1.4)
    ax.plot(shown.line.x, shown.line.y, color=plain, linewidth=1.4, marker="o", markersize=3)
    ax.plot(*shown.dip, color=mark, marker="D", markersize=6, linestyle="")
    if shown.back is not None:
        ax.plot(*shown.back, color=mark, marker="o", markersize=8, fillstyle="none", linestyle="")
