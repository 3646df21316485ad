"""A polite end: whoever sends SIGTERM (a scheduler, `kill`) gets a saved state before the process leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from surgeon.train.parallel import World


@contextmanager
def whole() -> Iterator[None]:
    """What is done within it is done whole: SIGINT and SIGTERM come after it. (An exception that a signal raises while
    torch writes a file can end in an abort of the process: its writer is finished in a destructor, from which nothing
    may be thrown.)"""
    if threading.current_thread() is not threading.main_thread():  # it gets no signals
        yield
        return
    came: list[int] = []
    before = {n: signal.signal(n, lambda number, frame: came.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in came:
        signal.raise_signal(late)


class Asked(Exception):  # noqa: N818 - no error
    """The run was asked to stop; what is under way is left as it is."""


class Stop:
    """While it is entered, SIGTERM does not end the process but is remembered until the step is done. (Evaluations are
    broken off: they may take longer than who asked will wait.)"""

    def __init__(self, world: World) -> None:
        self._world, self._came = world, False
        self._before: Any = None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # signals are handled there alone
            self._before = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def asked(self) -> bool:
        """Whether any rank was asked to stop; all ranks learn it at the same step."""
        return self._world.any(self._came)

    def check(self) -> None:
        """Raises Asked in every rank, where any of them was asked to stop."""
        if self.asked():
            raise Asked

    def leave(self, step: int) -> NoReturn:
        """Raises KeyboardInterrupt, which the command line answers with exit code 130."""
        raise KeyboardInterrupt(f"stopped after step {step}: the state is saved, --resume goes on" if step else "")

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._came = True
