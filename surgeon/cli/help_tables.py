"""The tables of --help in a narrow terminal: names whole, long words on two lines, where typer cuts them with "…"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def cut_nothing() -> None:
    """Have typer draw its help with tables that fold what is wider than its column. A typer that draws in another way
    is left as it is."""
    from rich.table import Table
    from rich.text import Text
    from typer import rich_utils

    class Folding(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*cells, **options)
            for column in self.columns:
                column.overflow = "fold"
            # the options' names: the first cell that says something (before it: which ones are required)
            first = next((c for cell, c in zip(cells, self.columns, strict=False) if str(cell).startswith("--")), None)
            if first is not None:
                first.no_wrap = True

    def one_text(parts: Sequence[Text]) -> Text:
        found = Text(" ", overflow="fold").join(parts)
        found.overflow = "fold"
        return found

    if hasattr(rich_utils, "Table") and hasattr(rich_utils, "Columns"):
        names: dict[str, Any] = vars(rich_utils)
        names |= {"Table": Folding, "Columns": one_text}
