"""A drawing of matplotlib as SVG text: the same numbers give the same bytes, whatever the user's settings."""

from __future__ import annotations

from typing import Any


def svg_text(draw: Any, size: tuple[float, float], salt: str, background: str | None = None) -> str:
    """`draw(figure)` on a fresh figure of `size` inches. salt: makes the ids of two drawings on one page differ.
    background: a colour, or None for none. Text stays text."""
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": salt, "svg.fonttype": "none", "axes.axisbelow": True})
        figure = Figure(figsize=size, layout="constrained", facecolor=background)
        FigureCanvasSVG(figure)
        draw(figure)
        text = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=background is None, metadata=nothing)
    return text.getvalue()
