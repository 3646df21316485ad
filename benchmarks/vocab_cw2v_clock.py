"""The time and the pairs of a training of Constrained Word2Vec."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """A Progress that takes the time of its tasks, without what comes before and after."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.positions = 0

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "tensors") -> Iterator[Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        self.positions += total or 0
        yield lambda amount: None
        self.wall, self.cpu = self.wall + time.perf_counter() - wall, self.cpu + time.process_time() - cpu

    def say(self, line: str) -> None:
        return None


class Counted:
    """Counts the pairs that training sees."""

    def __init__(self) -> None:
        from surgeon.vocab import skipgram

        self.pairs, real = 0, skipgram.pairs

        def counted(*args: Any) -> Iterator[Any]:
            for item in real(*args):
                self.pairs += len(item[1])
                yield item

        skipgram.pairs = counted
