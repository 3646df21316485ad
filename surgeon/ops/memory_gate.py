"""One budget of memory for all that a plan computes: what is kept until the end, and what comes and goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryGate:
    """Lets work start only while the sum of what it said it needs stays within `budget` bytes. reserve: the most that
    a computation may hold; buffers that are kept leave room for it, so that it never waits for them. changed: notified
    whenever there is more room."""

    def __init__(self, budget: int) -> None:
        self.budget, self.reserve = budget, 0
        self._held = self._kept = 0
        self.changed = threading.Condition()

    @contextmanager
    def hold(self, need: int) -> Iterator[None]:
        """While it is computed. One at a time may need more than there is, and is checked before (ops.check)."""
        with self.changed:
            self.changed.wait_for(lambda: self._held == 0 or self._kept + self._held + need <= self.budget)
            self._held += need
        try:
            yield
        finally:
            with self.changed:
                self._held -= need
                self.changed.notify_all()

    def keep(self, need: int) -> bool:
        """Take so much for good, if there is room; by who holds `changed`. The first one needs it in any case, and
        waits for no more than what is computed now."""
        alone = self._kept == 0 and self._held == 0
        if alone or self._kept + need + max(self._held, self.reserve) <= self.budget:
            self._kept += need
            return True
        return False
