"""Watching a run: every line of metrics.jsonl, drawn on a terminal and handed to trackers."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress, Show
from surgeon.train.tracking import Tracker

AVERAGED = 20  # steps of the shown mean of the loss


class Watch:
    """Shows how a run goes; changes nothing of it. `begin`, then `step` for every line, then `end` whatever happened.

    It draws where `progress` does (on a terminal, unless --quiet), and says where trackers put their numbers.
    """

    def __init__(
        self,
        progress: Progress = SILENT,
        trackers: Sequence[Tracker] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress, self._trackers, self._clock = progress, trackers, clock
        self._display = ExitStack()
        self._losses: deque[float] = deque(maxlen=AVERAGED)
        self._first: dict[str, Mapping[str, Any]] = {}
        self._last: dict[str, Mapping[str, Any]] = {}
        self._known: dict[str, Any] = {}  # the newest number of each name: not every line has all of them

    def begin(self, total_tokens: int, steps: int, *, done: int = 0, evals: Sequence[Mapping[str, Any]] = ()) -> None:
        """A run of so many steps, of which `done` were done before, with the evaluations of those."""
        self._tokens, self._steps, self._done = total_tokens, steps, done
        self._evaluated(evals)
        for tracker in self._trackers:
            self._progress.say(f"the numbers go to {tracker.place}")
        # by steps, not tokens: rows may be padded, and then a run ends before its tokens do
        self._show: Show = self._display.enter_context(self._progress.watch("training", steps, "steps"))
        self._began = self._clock()
        self._show(done, self._rows(), None)

    def step(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl: of a step, or of the evaluation before the first one."""
        self._known |= {key: value for key, value in line.items() if key != "eval"}
        self._evaluated(line.get("eval") or ())
        if "loss" in line:
            self._losses.append(line["loss"])
        for tracker in self._trackers:
            try:
                tracker.step(line)
            except OSError as error:
                raise SurgeonError(
                    f"a tracker cannot write: {error.strerror or error}",
                    tracker.place,
                    "free some space, or leave --track out; --resume goes on from the last state",
                ) from error
        if line["step"] <= self._done:
            self._began = self._clock()  # the evaluation before the first step says nothing of how long steps take
        self._show(line["step"], self._rows(), self._left(line["step"]))

    def end(self, ok: bool = True) -> None:
        """ok: the run was not broken off. Also the last tracker is ended where an earlier one cannot be."""
        self._display.close()
        with ExitStack() as ending:
            for tracker in reversed(self._trackers):
                ending.callback(tracker.end, ok)

    def _left(self, step: int) -> float | None:
        """Seconds, as the steps of this process went: with their evaluations and saved states."""
        made = step - self._done
        return (self._clock() - self._began) / made * (self._steps - step) if made > 0 else None

    def _evaluated(self, evals: Sequence[Mapping[str, Any]]) -> None:
        for found in evals:
            self._first.setdefault(found["name"], found)
            self._last[found["name"]] = found

    def _rows(self) -> list[tuple[str, str]]:
        known = self._known
        rows = [("step", f"{known.get('step', self._done):,} of {self._steps:,}")]
        if "tokens" in known:
            rows.append(("tokens", f"{known['tokens']:,} of {self._tokens:,}"))
        if self._losses:
            mean = math.fsum(self._losses) / len(self._losses)
            rows.append(("loss", f"{self._losses[-1]:.4f}, mean of {len(self._losses)}: {mean:.4f}"))
        if "lr" in known:
            rows.append(("learning rate", f"{known['lr']:.3g}"))
        if "grad_norm" in known:
            rows.append(("gradient", f"{known['grad_norm']:.3g}"))
        if "tokens_per_second" in known:
            share = "" if known.get("mfu") is None else f", {100 * known['mfu']:.1f}% of the hardware (MFU)"
            rows.append(("speed", f"{known['tokens_per_second']:,.0f} tokens/s{share}"))
        if "memory_bytes" in known:
            rows.append(("memory", f"{known['memory_bytes'] / 1e9:.2f} GB at most"))
        return rows + [(name, _moved(self._first[name], last)) for name, last in self._last.items()]


def _moved(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """The last evaluation of a corpus against its first."""
    bits = last["bits_per_byte"]
    said = f"{bits:.4f} bits per byte at step {last['step']:,}"
    if last is first:
        return said
    change = bits - first["bits_per_byte"]
    share = f" ({100 * change / first['bits_per_byte']:+.1f}%)" if first["bits_per_byte"] else ""
    return f"{said}, {change:+.4f}{share} since step {first['step']:,}"
