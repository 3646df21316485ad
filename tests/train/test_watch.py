"""What a watched run shows, and that trackers get every line and are ended whatever happens."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from surgeon.errors import SurgeonError
from surgeon.progress import Show, Silent
from surgeon.train.watch import AVERAGED, Watch


class Screen(Silent):
    """A progress that keeps what it is shown."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int, str]] = []
        self.shown: list[tuple[int, dict[str, str], float | None]] = []
        self.said: list[str] = []
        self.closed = False

    @contextmanager
    def watch(self, name: str, total: int, unit: str = "steps") -> Iterator[Show]:
        def show(done: int, lines: Sequence[tuple[str, str]], left: float | None) -> None:
            self.shown.append((done, dict(lines), left))

        self.tasks.append((name, total, unit))
        yield show
        self.closed = True

    def say(self, line: str) -> None:
        self.said.append(line)


class Kept:
    """A tracker that keeps what it is given."""

    place = "here"

    def __init__(self, fails: bool = False) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self.ended: list[bool] = []
        self.fails = fails

    def step(self, line: Mapping[str, Any]) -> None:
        if self.fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.lines.append(line)

    def end(self, ok: bool) -> None:
        self.ended.append(ok)
        if self.fails:
            raise RuntimeError("cannot be ended")


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def evaluation(step: int, name: str, bits: float) -> dict[str, Any]:
    return {"step": step, "name": name, "nats_per_token": 1.0, "bits_per_byte": bits}


def line(step: int, loss: float, **more: Any) -> dict[str, Any]:
    return {
        "step": step, "tokens": 2048 * step, "loss": loss, "lr": 1.5e-4, "grad_norm": 0.25,
        "tokens_per_second": 12345.6, "mfu": None,
    } | more  # fmt: skip


def test_what_is_shown() -> None:
    screen, clock = Screen(), Clock()
    watch = Watch(screen, clock=clock)
    watch.begin(20_480, 10)
    clock.now += 1000.0  # a long evaluation before the first step is no part of how long steps take
    watch.step({"step": 0, "tokens": 0, "eval": [evaluation(0, "old", 1.0), evaluation(0, "new", 2.0)]})
    assert screen.shown[-1] == (
        0,
        {"step": "0 of 10", "tokens": "0 of 20,480", "old": "1.0000 bits per byte at step 0",
         "new": "2.0000 bits per byte at step 0"},
        None,
    )  # fmt: skip
    clock.now += 3.0
    watch.step(line(1, 3.0))
    assert screen.shown[-1][2] == 27.0
    clock.now += 5.0
    watch.step(line(2, 2.0, mfu=0.415, memory_bytes=3_210_000_000, eval=[evaluation(2, "new", 1.5)]))
    done, rows, left = screen.shown[-1]
    assert (done, left) == (2, 32.0)
    assert rows == {
        "step": "2 of 10",
        "tokens": "4,096 of 20,480",
        "loss": "2.0000, mean of 2: 2.5000",
        "learning rate": "0.00015",
        "gradient": "0.25",
        "speed": "12,346 tokens/s, 41.5% of the hardware (MFU)",
        "memory": "3.21 GB at most",
        "old": "1.0000 bits per byte at step 0",
        "new": "1.5000 bits per byte at step 2, -0.5000 (-25.0%) since step 0",
    }
    watch.end()
    assert screen.tasks == [("training", 10, "steps")] and screen.closed and screen.said == []


def test_the_mean_is_of_the_newest_losses() -> None:
    screen = Screen()
    watch = Watch(screen)
    watch.begin(1, 100)
    for step in range(1, AVERAGED + 11):
        watch.step(line(step, float(step)))
    mean = sum(range(11, AVERAGED + 11)) / AVERAGED
    assert screen.shown[-1][1]["loss"] == f"{AVERAGED + 10:.4f}, mean of {AVERAGED}: {mean:.4f}"
    watch.end()


def test_a_run_that_goes_on() -> None:
    """The first evaluation is that of the run's start, and the time that is left that of this process's steps."""
    screen, clock = Screen(), Clock()
    watch = Watch(screen, clock=clock)
    watch.begin(20_480, 10, done=6, evals=[evaluation(0, "old", 1.0), evaluation(5, "old", 1.25)])
    assert screen.shown == [
        (6, {"step": "6 of 10", "old": "1.2500 bits per byte at step 5, +0.2500 (+25.0%) since step 0"}, None)
    ]
    clock.now += 2.0
    watch.step(line(7, 2.0, eval=[evaluation(7, "old", 1.5)]))
    assert screen.shown[-1][2] == 6.0
    assert screen.shown[-1][1]["old"] == "1.5000 bits per byte at step 7, +0.5000 (+50.0%) since step 0"
    watch.end()


def test_trackers_get_every_line_and_how_it_ended() -> None:
    screen, tracker = Screen(), Kept()
    watch = Watch(screen, [tracker])
    watch.begin(10, 2)
    lines = [line(1, 2.0), line(2, 1.5)]
    for found in lines:
        watch.step(found)
    watch.end(ok=False)
    assert (tracker.lines, tracker.ended, screen.said) == (lines, [False], ["the numbers go to here"])


def test_a_tracker_that_cannot_write_stops_the_run_and_all_are_ended() -> None:
    screen, first, last = Screen(), Kept(fails=True), Kept()
    watch = Watch(screen, [first, last])
    watch.begin(10, 2)
    with pytest.raises(SurgeonError, match="No space left on device") as caught:
        watch.step(line(1, 2.0))
    assert caught.value.where == "here" and "--resume" in caught.value.hint
    with pytest.raises(RuntimeError):
        watch.end(ok=False)
    assert (first.ended, last.ended, screen.closed) == ([False], [False], True)


def test_end_without_begin() -> None:
    tracker = Kept()
    Watch(trackers=[tracker]).end(ok=False)
    assert tracker.ended == [False]
