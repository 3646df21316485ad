"""stdout is data, stderr is everything else: results, tables, errors of three lines, progress."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from surgeon.cli.launched import launched
from surgeon.cli.streams import takes_any_text
from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Advance, Progress, Show
from surgeon.words import visible


@dataclass(frozen=True)
class Output:
    """How a command speaks: `as_json` one object on stdout, `quiet` nothing on stderr but errors. Of several processes
    that a launcher started, the first one speaks."""

    as_json: bool = False
    quiet: bool = False

    def emit(self, data: Any, lines: Sequence[str] | None = None) -> None:
        """The result: JSON, or `lines` (by default one `key  value` line each)."""
        if launched()[0]:
            return
        if self.as_json:
            sys.stdout.write(json.dumps(_finite(data), ensure_ascii=not takes_any_text(), allow_nan=False) + "\n")
        elif lines is not None:
            sys.stdout.write("".join(line + "\n" for line in lines))
        else:
            sys.stdout.write("".join(line + "\n" for line in pairs(data)))

    def table(self, data: Any, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """The result as a table, or as JSON. Columns after the first are right-aligned. Texts may hold square brackets
        (shapes, names of files, tokens) and what a terminal obeys: they are shown, and obeyed by nobody."""
        if self.as_json:
            self.emit(data)
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title) if title else None, title_justify="left", header_style="bold")
        for i, column in enumerate(columns):
            table.add_column(Text(column), justify="left" if i == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text("\n".join(map(visible, cell.split("\n")))) for cell in row))
        self.print(table)

    def print(self, renderable: Any) -> None:
        """A rich renderable on stdout."""
        if launched()[0]:
            return
        from rich.console import Console

        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=160, color_system=None)
        console.print(renderable)

    def progress(self) -> Progress:
        if self.quiet:
            return SILENT
        return RichProgress(bars=sys.stderr.isatty())


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: what is not a number is null there."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def pairs(data: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A mapping as aligned `key  value` lines; nested mappings are indented, in lists each behind a dash."""
    width = max((len(str(k)) for k in data), default=0)
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}"
            yield from pairs(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) and v for v in value):
            yield f"{indent}{key}"
            for entry in value:
                for number, line in enumerate(pairs(entry)):
                    yield f"{indent}  {' ' if number else '-'} {line}"
        else:
            yield f"{indent}{key!s:<{width}}  {plain(value)}"


def plain(value: Any) -> str:
    """A value for people: thousands separated, floats short."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value) or "-"
    return str(value)


def print_error(error: SurgeonError) -> None:
    """Three lines on stderr: what, where, how to mend."""
    for label, text in (("error", error.problem), ("where", error.where), ("mend", error.hint)):
        sys.stderr.write(f"{label:>5}: {' '.join(str(text).split())}\n")


class RichProgress:
    """Bars on stderr when it is a terminal; lines that are said come out either way."""

    def __init__(self, bars: bool) -> None:
        self._bars = bars
        self._shown: Any = None
        self._depth = 0
        self._lock = threading.Lock()

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "tensors") -> Iterator[Advance]:
        if not self._bars:
            yield lambda amount: None
            return
        shown = self._enter()
        task = shown.add_task(name, total=total, unit=unit)
        try:
            yield lambda amount: shown.advance(task, amount)
        finally:
            shown.remove_task(task)
            self._leave()

    @contextmanager
    def watch(self, name: str, total: int, unit: str = "steps") -> Iterator[Show]:
        if not self._bars:
            yield lambda done, lines, left: None
            return
        shown = self._enter()
        task = shown.add_task(name, total=total, unit=unit, left=None)

        def show(done: int, lines: Sequence[tuple[str, str]], left: float | None) -> None:
            shown.lines[task] = list(lines)
            shown.update(task, completed=done, left=left)

        try:
            yield show
        finally:
            shown.lines.pop(task, None)
            shown.remove_task(task)
            self._leave()

    def say(self, line: str) -> None:
        if self._shown is not None:
            self._shown.console.print(line, highlight=False, markup=False)
        else:
            sys.stderr.write(line + "\n")

    def _enter(self) -> Any:
        from rich.console import Console

        from surgeon.cli.display import Display

        with self._lock:
            if self._depth == 0:
                self._shown = Display(Console(stderr=True))
                self._shown.start()
            self._depth += 1
            return self._shown

    def _leave(self) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._shown.stop()
                self._shown = None
