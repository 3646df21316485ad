"""What an operation says of its progress; the command line draws it, a library call stays silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
# units done in all, lines of (label, text), seconds that are left where that is known
Show = Callable[[int, Sequence[tuple[str, str]], float | None], None]


class Progress(Protocol):
    """Draws tasks. `unit` is "bytes", "tokens", "steps", "tensors" or "documents"."""

    def task(self, name: str, total: int | None, unit: str = "tensors") -> AbstractContextManager[Advance]:
        """A task of `total` units (None: unknown); yields a function that advances it, safe from any thread."""
        ...

    def watch(self, name: str, total: int, unit: str = "steps") -> AbstractContextManager[Show]:
        """A task with numbers of its own under its bar; yields a function that shows how it stands."""
        ...

    def say(self, line: str) -> None:
        """One line of information for people (stderr at the command line)."""
        ...


class Silent:
    """Draws nothing."""

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "tensors") -> Iterator[Advance]:
        yield lambda amount: None

    @contextmanager
    def watch(self, name: str, total: int, unit: str = "steps") -> Iterator[Show]:
        yield lambda done, lines, left: None

    def say(self, line: str) -> None:
        return None


SILENT = Silent()
