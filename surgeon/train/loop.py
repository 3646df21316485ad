"""The training loop: forward, backward, update, and nothing that could not be done again from (seed, step)."""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any

import torch
from torch import Tensor

from surgeon.checkpoint.commit import staged
from surgeon.data.pack import IGNORED, Window
from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress
from surgeon.train import attention, kept, state
from surgeon.train.batch import collate
from surgeon.train.flops import flops_per_token, utilisation
from surgeon.train.folder import write_folder
from surgeon.train.job import Job
from surgeon.train.log import MetricsLog
from surgeon.train.outcome import Outcome
from surgeon.train.score import score, window_length


class Loop:
    """Runs a job from a step on. Deterministic on a CPU: batches, dropout and updates are functions of the step."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.parameters = job.trainable.parameters
        self.optimizer = job.optimizer()
        regularized = bool(job.chosen["regularizer"])
        self._anchors = {n: p.detach().clone() for n, p in self.parameters.items()} if regularized else {}
        # the update of a frozen row is undone exactly: its gradient may be zero, but decay and momentum are not
        self._frozen = {n: self.parameters[n].detach()[~mask].clone() for n, mask in job.trainable.rows.items()}
        self._flops = flops_per_token(job.model, job.trainable, job.shape.seq_len)

    def run(self, start: state.State | None, progress: Progress = SILENT) -> Outcome:
        """All steps from `start` (None: from the beginning), with evaluation, metrics and states on the way."""
        settings, steps = self.job.settings, self.job.shape.steps
        first, outcome = 0, Outcome()
        if start is not None:
            state.restore(start, self.parameters, self.optimizer)
            first, outcome = start.step, Outcome(start.tokens, start.loss, evals=start.evals)
        log = MetricsLog(settings.run_dir / state.METRICS, first)
        save_every = settings.saved_every(steps)
        busy, counted = 0.0, 0
        try:
            with progress.task("training", settings.tokens, "tokens") as advance:
                advance(outcome.tokens)
                if first == 0 and self.job.evals:
                    log.write({"step": 0, "tokens": 0, "eval": self._evaluate(0, outcome)})
                for step in range(first + 1, steps + 1):
                    began = time.perf_counter()
                    windows = self.job.data.mixture.batch(step - 1)
                    loss, norm, rate = self._step(step, windows)
                    seconds, tokens = time.perf_counter() - began, sum(w.num_tokens for w in windows)
                    busy, counted = busy + seconds, counted + tokens
                    outcome.tokens, outcome.final_loss = outcome.tokens + tokens, loss
                    line: dict[str, Any] = {
                        "step": step,
                        "tokens": outcome.tokens,
                        "loss": loss,
                        "lr": rate,
                        "grad_norm": norm,
                    }
                    line |= self._speed(tokens / seconds)
                    if step == steps or (settings.eval_every and step % settings.eval_every == 0):
                        line |= {"eval": self._evaluate(step, outcome)} if self.job.evals else {}
                    log.write(line)
                    if step % save_every == 0 and step < steps:
                        self._save(step, outcome)
                    advance(tokens)
            self._save(steps, outcome)
        finally:
            log.close()
        if counted:
            speed = self._speed(counted / busy)
            outcome.tokens_per_second, outcome.mfu = speed["tokens_per_second"] or 0.0, speed["mfu"]
        return outcome

    def _step(self, step: int, windows: list[Window]) -> tuple[float, float, float]:
        """One update; gives the mean loss in nats a target, the norm of the gradient and the learning rate."""
        job, settings = self.job, self.job.settings
        torch.manual_seed(_step_seed(settings.seed, step))
        job.model.train()
        targets = max(1, sum(int((w.labels != IGNORED).sum()) for w in windows))
        total = torch.zeros((), device=job.device)
        for at in range(0, len(windows), job.shape.micro_batch):
            batch = collate(windows[at : at + job.shape.micro_batch], job.device)
            with job.autocast():
                loss = job.loss(*attention.logits(job.model, batch, job.mode)) / targets
            loss.backward()
            total += loss.detach()
        for method, options in job.chosen["regularizer"]:
            supply = {"parameters": self.parameters, "anchors": self._anchors, "step": step}
            penalty: Tensor = method.call(supply, options)
            penalty.backward()
        norm = self._clip(settings.clip)
        value = float(total)
        if not math.isfinite(value) or not math.isfinite(norm):
            raise SurgeonError(
                f"the loss or its gradient is no longer finite at step {step} (loss {value}, norm {norm})",
                str(settings.run_dir / state.METRICS),
                "lower --lr, or lengthen the warm-up; the last state is kept",
            )
        rate = settings.lr * job.factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._put_back()
        return value, norm, rate

    @torch.no_grad()
    def _clip(self, limit: float) -> float:
        """Scale the gradient down to the limit; frozen rows count neither for the norm nor for the moments."""
        for name, mask in self.job.trainable.rows.items():
            gradient = self.parameters[name].grad
            if gradient is not None:
                gradient[~mask] = 0
        return float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit or math.inf))

    @torch.no_grad()
    def _put_back(self) -> None:
        for name, mask in self.job.trainable.rows.items():
            self.parameters[name][~mask] = self._frozen[name]

    def _evaluate(self, step: int, outcome: Outcome) -> list[dict[str, Any]]:
        found = []
        context = window_length(self.job.model, None)
        with self.job.autocast():
            for name, items in self.job.evals:
                result = score(self.job.model, items, context)
                numbers = {"nats_per_token": result.nats_per_token, "bits_per_byte": result.bits_per_byte}
                found.append({"step": step, "name": name} | numbers)
        outcome.evals = outcome.evals + found
        return found

    def _speed(self, tokens_per_second: float) -> dict[str, float | None]:
        mfu = utilisation(self._flops, tokens_per_second, self.job.device.type)
        return {"tokens_per_second": round(tokens_per_second, 1), "mfu": mfu}

    def _save(self, step: int, outcome: Outcome) -> None:
        settings = self.job.settings
        if settings.keep_checkpoints:
            # before the state: a run that goes on from a state does not come to that step again
            path = kept.step_path(settings.run_dir, step)
            with staged(path, force=True) as folder:
                write_folder(folder, path, self.job, step, outcome)
            kept.prune(settings.run_dir, settings.keep_checkpoints)
        held = {name: p.detach() for name, p in self.parameters.items()}
        saved = state.State(step, outcome.tokens, outcome.final_loss, held, self.optimizer.state_dict(), outcome.evals)
        state.save(settings.run_dir, saved)


def _step_seed(seed: int, step: int) -> int:
    """A seed of its own for every step (63 bits)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8], "big") >> 1
