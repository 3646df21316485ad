"""Around calls of lm-eval: what it prints, writes and warns of, and how its errors are told."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator

from surgeon.errors import SurgeonError


@contextlib.contextmanager
def told(tasks: str, hint: str) -> Iterator[None]:
    try:
        yield
    except SurgeonError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if reason.startswith("Duplicate task"):
            hint = "ask for the group or for the task, not for both"
        raise SurgeonError(f"lm-eval fails: {reason[:300]}", f"--tasks {tasks}", hint) from error


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Python writes no __pycache__ beside the functions of a task: its folder is an input."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextlib.contextmanager
def no_warnings(logger: str) -> Iterator[None]:
    held = logging.getLogger(logger)
    before = held.level
    held.setLevel(logging.ERROR)
    try:
        yield
    finally:
        held.setLevel(before)


@contextlib.contextmanager
def quiet(silent: bool) -> Iterator[None]:
    """lm-eval draws bars and prints, whoever calls it."""
    with contextlib.redirect_stdout(io.StringIO() if silent else sys.stderr):
        if not silent:
            yield
            return
        with contextlib.redirect_stderr(io.StringIO()):
            yield
