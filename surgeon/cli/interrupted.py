"""A Ctrl-C while threads of a library are in the middle of a transfer, which Python waits for until its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from surgeon.errors import INTERRUPTED


@contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    """Inside, an interrupt is raised as always, and what is still at work after so many seconds ends with the process:
    only for what leaves nothing behind on this machine."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told = threading.Event()

    def end() -> None:
        if not told.is_set():
            sys.stderr.write("interrupted\n")
            sys.stderr.flush()
        os._exit(INTERRUPTED)

    def stop(number: int, frame: FrameType | None) -> None:
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    kinds = [k for k in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(k) == signal.default_int_handler]
    for kind in kinds:
        signal.signal(kind, stop)
    try:
        yield
    finally:
        told.set()  # from here on the command says it
        for kind in kinds:
            signal.signal(kind, signal.default_int_handler)
