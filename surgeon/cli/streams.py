"""stdin, stdout and stderr as a command needs them: there, and able to take any text."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Collection
from pathlib import Path


def make_ready() -> None:
    """Streams that were closed at the start (`>&-`) lead nowhere: otherwise the first file that is opened would take
    their number. What the encoding of stdout or stderr does not have is written as an escape."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - as long as the process
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence(words: Collection[str]) -> None:
    """The hub's library, which is not loaded yet, draws bars of its own: none with --json and --quiet, and with the
    latter no warnings of what it tries again. What a person has set stands."""
    if "--json" in words or "--quiet" in words:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "--quiet" in words:
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def takes_any_text() -> bool:
    """Whether stdout is UTF-8, or not encoded at all: elsewhere JSON has to be ASCII to stay JSON."""
    encoding = getattr(sys.stdout, "encoding", None)
    return encoding is None or codecs.lookup(encoding).name == "utf-8"
