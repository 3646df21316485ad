"""A polite end: whoever sends SIGTERM (a scheduler, `kill`) or SIGINT (a person's Ctrl-C) gets a saved state before
the process leaves; who sends SIGINT twice does not wait for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from surgeon.train.parallel import World

SAME = 0.5  # seconds within which a second SIGINT is the first one, told twice
TOLD = "told to stop: this step is finished and its state saved first; a second Ctrl-C (SIGINT) ends the run at once"


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
    """While it is entered, SIGTERM and the first SIGINT do not end the process but are remembered until the step is
    done. (Evaluations are broken off: they may take longer than who asked will wait.) A second SIGINT ends it at
    once, as it does without this; one that comes within SAME seconds is the first once more, which a launcher passed
    on to a process that the terminal had reached by itself. SIGINT that is ignored (nohup, a shell's background job)
    stays so.

    say: what a person is told in the first process, as soon as any is asked to stop.
    """

    def __init__(self, world: World, say: Callable[[str], None] = lambda line: None) -> None:
        self._world, self._say, self._came = world, say, False
        self._first: float | None = None  # when the first SIGINT came
        self._telling: threading.Thread | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # signals are handled there alone
            self._before = {signal.SIGTERM: signal.signal(signal.SIGTERM, self._remember)}
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._telling is not None:
            self._telling.join()

    def asked(self) -> bool:
        """Whether any rank was asked to stop; all ranks learn it at the same step."""
        found = self._world.any(self._came)
        if found:
            self._tell()
        return found

    def check(self) -> None:
        """Raises Asked in every rank, where any of them was asked to stop."""
        if self.asked():
            raise Asked

    def leave(self, step: int) -> NoReturn:
        """Raises KeyboardInterrupt, which the command line answers with exit code 130."""
        raise KeyboardInterrupt(f"stopped after step {step}: the state is saved, --resume goes on" if step else "")

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        self._tell()

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        if now - self._first > SAME:
            raise KeyboardInterrupt
        self._remember(number, frame)

    def _tell(self) -> None:
        """By a thread: a signal may come in the midst of a line that is being written, whose lock is held then."""
        if self._telling is None:
            self._telling = threading.Thread(target=self._say, args=(TOLD,), daemon=True)
            self._telling.start()
