"""The numbers of every step: read when they are there, written in order, shown, and refused when they are none."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from surgeon.data.pack import Window, num_labels
from surgeon.train import state
from surgeon.train.evaluations import evaluated
from surgeon.train.flops import utilisation
from surgeon.train.guard import Guard
from surgeon.train.job import Job
from surgeon.train.log import MetricsLog
from surgeon.train.memory import peak_memory
from surgeon.train.outcome import Outcome
from surgeon.train.score import NotFiniteError
from surgeon.train.stop import Asked, Stop
from surgeon.train.watch import Watch


@dataclass(frozen=True)
class Done:
    """A step that was begun. loss: mean in nats a target; norm: of the gradient; both on the device. tokens: without
    padding."""

    step: int
    tokens: int
    loss: Tensor
    norm: Tensor
    rate: float
    extra: dict[str, float] = field(default_factory=dict)


class _Coming:
    """The numbers of a step on their way to the host. To read one from the device itself would also wait for all
    steps that were begun since."""

    def __init__(self, done: Done) -> None:
        self.done = done
        self._event: torch.cuda.Event | None = None
        self._values = (done.loss, done.norm)
        if done.loss.device.type == "cuda":
            loss, norm = (value.to("cpu", non_blocking=True) for value in self._values)
            self._values, self._event = (loss, norm), torch.cuda.Event()
            self._event.record()

    def numbers(self) -> tuple[float, float]:
        """(loss, norm), when this step is done."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._values[0]), float(self._values[1])


class Pace:
    """Takes steps as they are begun and writes their lines. On a GPU a step is looked at when the next one has been
    begun, so that the device never waits for the host; on a CPU at once. flops: of a token, by the length of its row.
    last_good: the newest state on disk from which a step was trained whose numbers are finite. held: the line of a
    step whose evaluation is not done."""

    def __init__(
        self, job: Job, flops: Mapping[int, float], log: MetricsLog | None, outcome: Outcome, watch: Watch,
        guard: Guard,
    ) -> None:  # fmt: skip
        self._job, self._flops, self._log, self._outcome = job, flops, log, outcome
        self._watch, self._guard = watch, guard
        self.last_good: Path | None = None
        self._unproven: tuple[int, Path] | None = None
        self._lag = 1 if job.device.type == "cuda" else 0
        self._waiting: deque[_Coming] = deque()
        self.held: dict[str, Any] = {}
        self._last = time.perf_counter()
        self._busy, self._counted, self._work = 0.0, 0, 0.0

    def __enter__(self) -> Pace:
        self._last = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._log is not None:
            self._log.close()
        self._watch.end(kind is None)

    def checked(self, step: int, windows: list[Window]) -> list[Window]:
        """The windows of a step that is not yet taken; one that has nothing to learn is refused."""
        self._guard.check_labels(step, num_labels(windows), lambda: self._documents(step), self.last_good)
        return windows

    def before_save(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """The lines of all steps but a held one are on disk. Refuses what a step made of the weights, where that is
        not finite in any process."""
        world = self._job.world
        finite = torch.stack([world.local(p.detach()).isfinite().all() for p in parameters.values()])
        if world.any(not bool(finite.all())):
            self._guard.spoilt(step, "the weights are", self._documents(step), self.last_good)
        if self._log is not None:
            self._log.sync()

    def evaluate(self, step: int, stop: Stop) -> bool:
        """The model on the corpora of --eval, and the line that was held for it. False where the run was asked to stop
        before that was done: the line stays held. After a step, a loss that is not finite stops the run."""
        try:
            found = evaluated(self._job, step, stop.check)
        except Asked:
            return False
        except NotFiniteError:
            if not step:  # the model was like that
                raise
            self._finish({})
            self._guard.spoilt(step, "the losses on the texts of --eval are", self._documents(step), self.last_good)
        self._outcome.evals = self._outcome.evals + found
        self._finish({"eval": found})
        return True

    def going_on(self, states: Sequence[Path], held: dict[str, Any]) -> None:
        """These states are there (oldest first), and the run goes on from the last one, whose line is held where its
        evaluation is owed."""
        self.held = held
        self.last_good = states[-2] if len(states) > 1 else None
        if states:
            self._unproven = 0, states[-1]

    def saved(self, step: int, path: Path | None) -> None:
        """The state of a step is on disk; whether its weights are good, the next step says."""
        self._unproven = None if path is None else (step, path)

    def add(self, done: Done, *, wait: bool, hold: bool = False) -> None:
        """A step was begun. wait: look at it now, since something depends on it. hold: its line is for `evaluate`."""
        self._waiting.append(_Coming(done))
        while len(self._waiting) > (0 if wait else self._lag):
            line = self._settle(self._waiting.popleft())
            if hold and not self._waiting:
                self.held = line
            else:
                self._write(line)

    def _finish(self, values: dict[str, Any]) -> None:
        """Write the line that was held, with more in it; the time that took is no training time."""
        line, self.held = self.held | values, {}
        self._write(line)

    def mean(self) -> tuple[float | None, float | None]:
        """(tokens a second, utilisation) over the steps of this process; None where it had nothing left to do."""
        if not self._counted:
            return None, None
        speed = self._speed(self._counted / self._busy, self._work / self._counted)
        return speed["tokens_per_second"], speed["mfu"]

    def _settle(self, coming: _Coming) -> dict[str, Any]:
        done, (loss, norm) = coming.done, coming.numbers()
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._guard.check(done.step, loss, norm, lambda: self._documents(done.step), self.last_good)
        self._proven(done.step)
        flops = self._flops[self._job.shape.at(done.step).seq_len]
        self._busy, self._counted = self._busy + seconds, self._counted + done.tokens
        self._work += flops * done.tokens
        outcome = self._outcome
        outcome.tokens, outcome.final_loss = outcome.tokens + done.tokens, loss
        line: dict[str, Any] = {"step": done.step, "tokens": outcome.tokens, "loss": loss, "lr": done.rate}
        line |= {"grad_norm": norm} | done.extra | self._speed(done.tokens / seconds, flops)
        return line | {"memory_bytes": peak_memory(self._job.device)}

    def _proven(self, step: int) -> None:
        """The state before this step is good, and older ones than are to be kept may go."""
        if self._unproven is None or step <= self._unproven[0]:
            return
        self.last_good, self._unproven = self._unproven[1], None
        if self._job.world.is_main:
            state.prune(self._job.settings.run_dir, self._job.settings.keep_states)

    def _write(self, line: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(line)
        self._watch.step(line)
        self._last = time.perf_counter()

    def _documents(self, step: int) -> list[tuple[str, int]]:
        windows = self._job.data.mixture.documents_of(step - 1)
        return [(held["corpus"], number) for held in windows for number in held["documents"]]

    def _speed(self, tokens_per_second: float, flops: float) -> dict[str, float | None]:
        mfu = utilisation(flops, tokens_per_second, self._job.device.type)
        return {"tokens_per_second": round(tokens_per_second, 1), "mfu": mfu}
