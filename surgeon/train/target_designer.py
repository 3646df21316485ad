"""How a designer of targets learns: by what its targets would do for another text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from surgeon.data.pack import Packed, Window
from surgeon.data.tokens import Tokens
from surgeon.errors import SurgeonError
from surgeon.train import attention
from surgeon.train.batch import Batch, collate
from surgeon.train.designer import Candidates, Designer, candidates, mixed
from surgeon.train.forward import Forward
from surgeon.train.hook import Hook, Run
from surgeon.train.outline import Outline
from surgeon.train.probes import STREAM, text_of
from surgeon.train.value import mean_gradient


class Targets(Hook):
    """Soft targets of a batch; before every `every`-th step from the first the designer learns.

    feedback: the corpus of g_down; None with random directions in its place. `control` uniform has no designer.
    """

    def __init__(self, run: Run, names: Sequence[str], options: Mapping[str, Any]) -> None:
        self._run, self._names, self._options = run, list(names), options
        self.control, self._count, self._most = options["control"], options["k"], options["most"]
        self._every, self._rows, self._value = options["every"], options["rows"], 0.0
        self.designer: Designer | None = None
        self._feedback: Packed | None = None
        if self.control == "uniform":
            return
        head = run.model.get_output_embeddings()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.designer = Designer(
                head.weight.shape[1], options["width"], options["layers"], options["heads"], self._most
            )
        self.designer.to(run.device)
        self._adam = torch.optim.Adam(self.designer.parameters(), lr=options["rate"])
        if options["feedback"] is not None:
            text = feedback_of(run, options["feedback"])
            self._feedback = Packed(text, run.seq_len, run.seed, STREAM, "whole" if text.instruct else "split")

    def of(self, hidden: Tensor, batch: Batch, found: Candidates) -> Tensor:
        """q: float32 [T, K], with a graph to the designer alone."""
        if self.designer is None:
            r = torch.full_like(found.logs, 1 / self._count, requires_grad=False)
            return mixed(r, torch.full_like(r[:, :1], self._most / 2))
        matrix = self._run.model.get_output_embeddings().weight
        result: Tensor = self.designer(hidden, matrix, batch, found)
        return result

    def before_step(self, step: int) -> None:
        if self.designer is None or (step - 1) % self._every:
            return
        windows = self._run.windows(step - 1)[: self._rows]
        down = self._down((step - 1) // self._every)
        with torch.enable_grad(), torch.autocast(self._run.device.type, enabled=False):
            hidden, batch, found, worth = self.worth(windows, down)
            worth_of_q = (self.of(hidden, batch, found) * worth).sum()
            self._adam.zero_grad()
            (-worth_of_q).backward()
        self._adam.step()
        self._value = float(worth_of_q.detach())

    def worth(self, windows: Sequence[Window], down: Mapping[str, Tensor]) -> tuple[Tensor, Batch, Candidates, Tensor]:
        """(what the head reads, the arranged batch, its candidates, c: float32 [T, K]) with g_down . g_pre = sum q c.

        g_pre is linear in q, so c(t, v) = -g_down . grad log p(v | t) / T holds all that a designer has to know of
        the learner. It is the exact derivative, by a second pass backward; in evaluation.
        """
        run, model = self._run, self._run.model
        was_training = model.training
        model.eval()
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the only one that can be differentiated twice
                batch, arguments = attention.arranged(collate(windows, run.device), run.forward.mode)
                hidden, found = read(run.forward, batch, arguments, self._count)
                some = torch.zeros_like(found.logs, requires_grad=True)
                moving = [run.parameters[n] for n in self._names]
                gradients = torch.autograd.grad(
                    (some * found.logs).sum(), moving, create_graph=True, allow_unused=True
                )  # fmt: skip
                along = torch.zeros((), device=run.device)
                for name, gradient in zip(self._names, gradients, strict=True):
                    if gradient is not None:
                        along = along + (gradient * down[name]).sum()
                worth = -torch.autograd.grad(along, some)[0] / max(1, len(found.at))
        finally:
            model.train(was_training)
        return hidden.detach(), batch, found, worth

    def _down(self, update: int) -> dict[str, Tensor]:
        """g_down of the feedback's next windows, or a random direction; of norm 1, which Adam does not see."""
        if self._feedback is None:
            generator = torch.Generator().manual_seed((self._run.seed << 20 ^ update) & (1 << 63) - 1)
            shapes = {n: self._run.parameters[n].shape for n in self._names}
            found = {n: torch.randn(s, generator=generator).to(self._run.device) for n, s in shapes.items()}
        else:
            windows = [self._feedback.window(update * self._rows + n) for n in range(self._rows)]
            found = mean_gradient(self._run, windows, self._names)
        norm = sum(float(g.double().square().sum()) for g in found.values()) ** 0.5
        return {n: g / norm for n, g in found.items()} if norm else found

    def metrics(self) -> dict[str, float]:
        return {} if self.designer is None else {"design_value": self._value}

    def state(self) -> dict[str, Any]:
        if self.designer is None:
            return {}
        held = {"designer": dict(self.designer.state_dict()), "adam": self._adam.state_dict()}
        return held | {"value": self._value}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.designer is not None:
            self.designer.load_state_dict(state["designer"])
            self._adam.load_state_dict(state["adam"])
            self._value = state["value"]


def feedback_of(run: Run | Outline, word: str) -> Tokens:
    """The text that targets are to serve. Raises SurgeonError on ids that the model has no row for."""
    text = text_of(run, word)
    if text.max_id >= run.model.get_input_embeddings().weight.shape[0]:
        raise SurgeonError(
            "the feedback has ids that the model has no row for", word, "give the model's own tokenizer"
        )
    return text


def read(
    forward: Forward, batch: Batch, arguments: Mapping[str, Any], count: int
) -> tuple[Tensor, Candidates]:  # fmt: skip
    """(what the head reads, [rows, tokens, H]; the candidates) of a batch, in one pass."""
    with forward.head_input() as held:
        logits = forward.output(arguments).logits
    return held[0], candidates(logits, batch.labels, count)
