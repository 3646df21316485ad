"""The training loop: forward, backward, update, and nothing that could not be done again from (seed, step)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from surgeon.data.pack import Window, num_labels
from surgeon.progress import SILENT, Progress
from surgeon.registry import Method
from surgeon.train import state, tracking
from surgeon.train.anchors import Anchors
from surgeon.train.batch import collate
from surgeon.train.flops import flops_per_token
from surgeon.train.forward import Forward
from surgeon.train.frozen_rows import FrozenRows
from surgeon.train.guard import Guard
from surgeon.train.hook import Hook, Run
from surgeon.train.job import Job
from surgeon.train.keep import keep
from surgeon.train.log import MetricsLog
from surgeon.train.naming import named
from surgeon.train.outcome import Outcome
from surgeon.train.pace import Done, Pace
from surgeon.train.seeds import seed_step
from surgeon.train.stop import Stop
from surgeon.train.watch import Watch


class Loop:
    """Runs a job from a step on. Deterministic on a CPU: batches, dropout and updates are functions of the step."""

    def __init__(self, job: Job) -> None:
        self.job, self.world = job, job.world
        self.parameters = job.trainable.parameters
        self.optimizer = job.optimizer()
        self.forward = Forward(job.model, job.mode, compiled=job.compiles)
        self.anchors, self._guard = Anchors(self.parameters), Guard(job.settings)
        self._frozen = FrozenRows(self.world, self.parameters, job.trainable.rows)
        self._flops = {s.seq_len: flops_per_token(job.model, job.trainable, s.seq_len) for s in job.shape.spans}
        self._masks: Any = None
        self.run_view = self._view()
        self.hooks: list[Hook] = [named(m, m.call, {"run": self.run_view}, given) for m, given in job.chosen["meta"]]
        self._made = {kind: [self._make(*one) for one in job.chosen[kind]] for kind in ("objective", "regularizer")}
        self.forward.extra |= self._made["objective"][0]
        self._masks = self.forward.extra.get("masks")
        self.anchors.seal()
        job.texts.clear()  # who needs one of them holds it

    def run(self, start: state.State | None, progress: Progress = SILENT) -> Outcome:
        """All steps from `start` (None: from the beginning), with evaluation, metrics and states on the way."""
        settings, steps = self.job.settings, self.job.shape.steps
        first, outcome, held = 0, Outcome(), {"step": 0, "tokens": 0} if self.job.evals else {}
        if start is not None:
            self._restore(start)
            first, outcome, held = start.step, Outcome(start.tokens, start.loss, evals=start.evals), start.held
        main = self.world.is_main
        log = MetricsLog(settings.run_dir / state.METRICS, first - bool(held)) if main else None
        trackers = (
            tracking.opened(self.job.chosen["tracker"], settings.out_path, first, self.job.record) if main else []
        )
        watch = Watch(progress, trackers)
        pace = Pace(self.job, self._flops, log, outcome, watch, self._guard)
        pace.going_on(state.saved(settings.run_dir), held)
        with Stop(self.world, progress.say) as stop, pace:
            watch.begin(self.job.shape.tokens, steps, done=first, evals=outcome.evals)
            for hook in self.hooks:
                hook.begin(first)
            if held:
                if not pace.evaluate(first, stop):
                    stop.leave(first)
                if first:  # until now the state said that its evaluation was owed
                    self._save(first, outcome, pace)
            for step in range(first + 1, steps + 1):
                windows = pace.checked(step, self.windows(step - 1))
                done = self._step(step, windows)
                due = step % settings.saved_every(steps) == 0 and step < steps
                evaluate = step == steps or bool(settings.eval_every and step % settings.eval_every == 0)
                evaluate = evaluate and bool(self.job.evals)
                stopping = stop.asked()
                pace.add(done, wait=due or evaluate or stopping or step == steps, hold=evaluate)
                if evaluate:
                    pace.evaluate(step, stop)
                    stopping = stop.asked()
                if due or stopping:
                    self._save(step, outcome, pace)
                if stopping and (step < steps or pace.held):
                    stop.leave(step)
            self._save(steps, outcome, pace)
        outcome.tokens_per_second, outcome.mfu = pace.mean()
        return outcome

    def windows(self, step: int) -> list[Window]:
        """What step `step` (from 0) trains on, as the objective sees it: it may choose the labels itself."""
        found = self.job.data.mixture.batch(step)
        return found if self._masks is None else self._masks.of(step, found)

    def _step(self, step: int, windows: list[Window]) -> Done:
        """One update. What it gives is still on the device: the host does not wait for it."""
        job, settings = self.job, self.job.settings
        seed_step(job.device, settings.seed, step, self.world.rank)
        if not job.model.training:  # it walks through all modules
            job.model.train()
        for hook in self.hooks:
            hook.before_step(step)
        targets, total = num_labels(windows), torch.zeros((), device=job.device)
        for part in self._parts(windows, job.shape.at(step).micro_batch):
            loss = self._loss(part) / targets
            self._guard.check_graph(loss)
            (loss * self.world.size).backward()  # sharded gradients are means over the ranks
            total += loss.detach()
            for hook in self.hooks:
                hook.after_micro_batch(step)
        for (method, options), made in zip(job.chosen["regularizer"], self._made["regularizer"], strict=True):
            supply = {"parameters": self.parameters, "step": step, "run": self.run_view} | made
            penalty: Tensor = method.call(supply, options)
            if penalty.requires_grad:  # one of no strength has no graph, and leaves every gradient as it is
                penalty.backward()
        for hook in self.hooks:
            hook.after_backward(step)
        self._frozen.clear()
        norm = self.world.full(torch.nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip or math.inf))
        rate = settings.lr * job.factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        for hook in self.hooks:
            hook.before_update(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for hook in self.hooks:
            hook.after_update(step)
        self._frozen.put_back()
        extra = {name: value for hook in self.hooks for name, value in hook.metrics().items()}
        return Done(step, sum(w.num_tokens for w in windows), self.world.sum(total), norm, rate, extra)

    def _parts(self, windows: list[Window], size: int) -> list[list[Window]]:
        """The micro-batches of this process."""
        if any(hook.between_micro_batches for hook in self.hooks):
            return [self.world.share(windows[at : at + size], size) for at in range(0, len(windows), size)]
        mine = self.world.share(windows, size)
        return [mine[at : at + size] for at in range(0, len(mine), size)]

    def _make(self, method: Method, options: dict[str, Any]) -> dict[str, Any]:
        """What a method needs that is made once, of the model at the start: its module says so in MAKES, a function of
        (run, options) for each of its arguments. A Hook among them acts on the run as well."""
        made = {n: named(method, make, self.run_view, options) for n, make in method.trait("MAKES", {}).items()}
        if "anchors" in method.supplied:
            made["anchors"] = self.anchors()
        self.hooks += [one for one in made.values() if isinstance(one, Hook)]
        return made

    def _loss(self, windows: list[Window]) -> Tensor:
        """Summed over the labels of the windows, with a graph."""
        method, options = self.job.chosen["objective"][0]
        batch = collate(windows, self.job.device)
        with self.job.autocast():
            return self.forward.loss(batch, method, options)

    def _restore(self, start: state.State) -> None:
        self.world.reshard(self.job.model)
        if start.shards is not None:
            state.restore_shards(self.job.settings.run_dir, start, self.parameters, self.optimizer, self.world)
        else:
            self.world.restore(self.optimizer, self.parameters, start.parameters, start.optimizer)
        for hook, held in zip(self.hooks, start.hooks, strict=True):
            hook.restore(held)
        self._guard.restore(start.guard)

    def _save(self, step: int, outcome: Outcome, pace: Pace) -> None:
        settings = self.job.settings
        pace.before_save(step, self.parameters)
        if not pace.held:
            # before the state: a run that goes on from a state does not come to that step again
            keep(self.job, self.world, step, outcome)
        hooks = [hook.state() for hook in self.hooks]
        tensors = state.tensors_of(settings.run_dir, step, self.parameters, self.optimizer, self.world)
        tensors |= {"evals": outcome.evals, "hooks": hooks, "guard": self._guard.state(), "held": pace.held}
        saved = state.State(step, outcome.tokens, outcome.final_loss, **tensors)
        if self.world.is_main:
            # the next step may show that this one spoilt the weights: until then the state before it stays
            state.save(settings.run_dir, saved, settings.keep_states + (step < self.job.shape.steps))
        self.world.wait()
        pace.saved(step, state.latest(settings.run_dir))

    def _view(self) -> Run:
        job = self.job

        def mean_loss(windows: list[Window]) -> Tensor:
            return self._loss(windows) / max(1, num_labels(windows))

        return Run(
            job.model, self.parameters, job.trainable.rows, self.optimizer, job.device, job.tokenizer,
            job.settings.seed, job.shape.steps, job.shape.seq_len, job.settings.lr, mean_loss, self.windows,
            {id(p): n for n, p in self.parameters.items()}, forward=self.forward, anchors=self.anchors,
            teacher=job.teacher, replays=job.data.replays,
            micro_batch=job.shape.micro_batch, world=self.world, texts=job.texts,
        )  # fmt: skip
