"""What is drawn on stderr while something runs: bars, and the numbers of what is watched under them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from surgeon.words import visible


class Left(TimeRemainingColumn):
    """The time that is left: as what runs says it, else as the bar has moved in the last half minute."""

    def render(self, task: Task) -> Text:
        if "left" not in task.fields:
            return super().render(task)
        seconds = task.fields["left"]
        if seconds is None:
            return Text("-:--:--", style="progress.remaining")
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return Text(f"{hours:d}:{minutes:02d}:{rest:02d}", style="progress.remaining")


class Display(Progress):
    """Bars of tasks; beneath them the lines of those that have some. Gone when it stops."""

    def __init__(self, console: Console) -> None:
        self.lines: dict[TaskID, Sequence[tuple[str, str]]] = {}
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[unit]}"),
            Left(),
            console=console,
            transient=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (_grid(lines) for lines in list(self.lines.values()) if lines)


def _grid(lines: Sequence[tuple[str, str]]) -> Table:
    """Labels (a corpus's name is one) and texts, side by side; names are shown, not obeyed."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in lines:
        grid.add_row(Text("  " + visible(label)), Text(visible(text)))
    return grid
