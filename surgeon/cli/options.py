"""The options that many commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon.data.numbers import parse_bytes
from surgeon.errors import UsageError
from surgeon.number import whole

_MACHINE, _OUTPUT = "Machine", "Output"


def _threads(text: str) -> int:
    """A whole number above 0, as a person writes it: Python's int takes 1_0 for ten."""
    try:
        count = whole(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a whole number", "--threads", "write it in digits, as 4") from error
    if count < 1:
        raise UsageError(f"--threads is {text}", "--threads", "give a number above 0")
    return count


Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=_OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing on stderr but errors.", rich_help_panel=_OUTPUT)]
Debug = Annotated[bool, typer.Option("--debug", help="A traceback with an error.", rich_help_panel=_OUTPUT)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be written; write nothing.", rich_help_panel=_OUTPUT)
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan", help="Write the plan to FILE and stop; `surgeon apply FILE` carries it out.", rich_help_panel=_OUTPUT
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace OUT as a whole, once the new one is complete.", rich_help_panel=_OUTPUT),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        parser=_threads,
        metavar="N",
        help="Worker threads; the bytes do not depend on it.",
        rich_help_panel=_MACHINE,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="BYTES",
        help="Bytes that computed tensors may take at a time, such as 512M \\[half of what is free]; what is "
        "written does not depend on it.",
        show_default=False,
        rich_help_panel=_MACHINE,
    ),
]
SetValues = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting by name (below flags).", rich_help_panel="Settings"),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A YAML file of settings (below --set and flags).", rich_help_panel="Settings"),
]
PrintConfig = Annotated[
    bool,
    typer.Option("--print-config", help="Print the settings and where each came from.", rich_help_panel="Settings"),
]


def memory_bytes(text: str | None) -> int | None:
    """The bytes that --memory says."""
    try:
        return None if text is None else parse_bytes(text)
    except ValueError as error:
        raise UsageError(str(error), "--memory", "write 512M or 4G") from error
