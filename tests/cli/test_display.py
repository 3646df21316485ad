"""What is drawn on stderr while a run is watched, and where nothing is drawn."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from surgeon.cli.display import Display
from surgeon.cli.output import Output, RichProgress, pairs
from surgeon.progress import SILENT

LINES = [("loss", "2.0000, mean of 2: 2.5000"), ("[red]\x1b[2J\u202e", "1.0 [bits]")]


def drawn(left: float | None) -> str:
    out = io.StringIO()
    display = Display(Console(file=out, width=100, force_terminal=True, color_system=None))
    display.add_task("training", total=10, completed=4, unit="steps", left=left)
    display.lines[display.task_ids[0]] = LINES
    display.console.print(*display.get_renderables())
    return out.getvalue()


def test_lines_stand_under_their_bar_as_text() -> None:
    text = drawn(3723.0)
    bar, *rest = [row.rstrip() for row in text.splitlines() if row.strip()]
    assert "training" in bar and "40%" in bar and bar.endswith("steps 1:02:03")
    assert rest[0] == "  loss                2.0000, mean of 2: 2.5000"
    assert rest[1] == "  [red]\\x1b[2J\\u202e  1.0 [bits]"
    assert "\x1b" not in text
    assert "-:--:--" in drawn(None)


def test_nothing_is_drawn_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (RichProgress(bars=False), SILENT, Output().progress(), Output(quiet=True).progress()):
        with progress.watch("training", 10) as show:
            show(1, LINES, 3.0)
    assert capsys.readouterr() == ("", "")


SCRIPT = """
from surgeon.cli.output import Output
progress = Output().progress()
with progress.watch("training", 10) as show:
    show(4, [("loss", "2.0000")], 75.0)
    with progress.task("writing", 3, "tensors") as advance:
        advance(1)
    progress.say("a line that stays")
"""


def test_on_a_terminal() -> None:
    """A real one: what is drawn goes to stderr alone, and is gone at the end."""
    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=other, env=environment, check=True
    )
    os.close(other)
    text = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        text += part
    os.close(main)
    shown = text.decode()
    assert run.stdout == b""
    assert "training" in shown and "40%" in shown and "2.0000" in shown and "0:01:15" in shown
    assert "writing" in shown, "a task inside has its own bar"
    assert "a line that stays" in shown
    assert shown.rstrip("\r\n").endswith("\x1b[2K\x1b[?25h"), "the display erases itself"


def test_entries_of_lists_are_told_line_by_line() -> None:
    data = {"add": [{"name": "a", "weight": 0.5}, {"name": "b", "inner": {"x": 1}}], "none": [], "plain": [1, 2000]}
    assert list(pairs(data)) == [
        "add",
        "  - name    a",
        "    weight  0.5",
        "  - name   b",
        "    inner",
        "      x  1",
        "none   -",
        "plain  1, 2,000",
    ]
