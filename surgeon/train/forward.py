"""From a micro-batch to the objective's loss: the model runs once, and makes only what the objective asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from surgeon.data.pack import IGNORED
from surgeon.errors import SurgeonError
from surgeon.registry import Method
from surgeon.train import attention
from surgeon.train.batch import Batch
from surgeon.train.head import Head, head_of
from surgeon.train.linear_loss import TokenLoss, linear_loss, logits_loss


class Forward:
    """The loss of a batch under an objective, which is given, by name, what it takes of:

    nats: the cross-entropy of the labels, summed over those that count: a scalar, float32. Asked for alone, it is
    taken inside the head and the logits are never held (where the model allows it).
    logits: [rows, tokens, V]. labels: int64 [rows, tokens], the next token, -100 where none counts. hidden_states: a
    tuple of the embeddings' output and every block's, [rows, tokens, H]. batch: see Batch, arranged like the logits.
    arguments: what the model is given for the batch. model. forward: this object, to run the model by oneself.
    `extra` adds what a run supplies besides; compiled: the loss in the head is, as the blocks are.
    """

    def __init__(
        self, model: Any, mode: attention.Mode, extra: Mapping[str, Any] | None = None, *, compiled: bool = False
    ) -> None:
        self.model, self.mode, self.extra, self.compiled = model, mode, dict(extra or {}), compiled
        module = head_of(model)
        self.head = None if module is None else Head(module)

    def loss(self, batch: Batch, objective: Method, options: Mapping[str, Any]) -> Tensor:
        """A scalar, summed over the labels that count."""
        asked = set(objective.supplied)
        arranged, arguments = attention.arranged(batch, self.mode)
        supply = {"labels": arranged.labels, "batch": arranged, "arguments": arguments, "model": self.model}
        supply |= {"forward": self} | self.extra
        if "nats" in asked and not asked & {"logits", "hidden_states"}:
            supply["nats"] = self.nats(arranged, arguments)
        elif asked & {"nats", "logits", "hidden_states"}:
            output = self.output(arguments, hidden_states="hidden_states" in asked)
            supply |= {"logits": output.logits, "hidden_states": output.hidden_states}
            if "nats" in asked:
                supply["nats"] = nats_of(output.logits, arranged.labels)
        result: Tensor = objective.call(supply, options)
        return result

    def nats(self, arranged: Batch, arguments: Mapping[str, Any]) -> Tensor:
        """The summed cross-entropy, without the logits where the model allows it."""
        if self.head is None:
            return nats_of(self.output(arguments).logits, arranged.labels)
        with self.head.labels(arranged.labels, compiled=self.compiled):
            result: Tensor = self.output(arguments).logits
        return result

    def routed(self, arranged: Batch, arguments: Mapping[str, Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(the summed cross-entropy, the routers' logits: [tokens, experts] of every block that has experts)."""
        if self.head is None:
            output = self.output(arguments, router_logits=True)
            return nats_of(output.logits, arranged.labels), output.router_logits
        with self.head.labels(arranged.labels, compiled=self.compiled):
            output = self.output(arguments, router_logits=True)
        return output.logits, output.router_logits

    def token_loss(self, arguments: Mapping[str, Any], loss: TokenLoss) -> Tensor:
        """A sum over tokens (all of them, in the order of the arranged batch), without the logits where the model
        allows it; in float32 there is a chunk of them at a time anyway."""
        if self.head is None:
            logits = self.output(arguments).logits
            return logits_loss(logits.reshape(-1, logits.shape[-1]), loss)
        with self.head.giving(lambda hidden, weight, bias: linear_loss(hidden, weight, bias, loss)):
            result: Tensor = self.output(arguments).logits
        return result

    @contextmanager
    def head_input(self) -> Iterator[list[Tensor]]:
        """A list that holds, after the pass within it, what the head was given: [rows, tokens, H]."""
        held: list[Tensor] = []
        module = self.model.get_output_embeddings()
        if module is None:
            raise SurgeonError(f"{type(self.model).__name__} has no head", "hidden states", "distil its logits")
        handle = module.register_forward_pre_hook(lambda _module, given: held.append(given[0]))
        try:
            yield held
        finally:
            handle.remove()

    def output(self, arguments: Mapping[str, Any], *, hidden_states: bool = False, router_logits: bool = False) -> Any:
        """The model on a batch as `attention.arranged` gives it; without a cache: with one, the library does not look
        for packed documents."""
        asked = {"output_router_logits": True} if router_logits else {}
        return self.model(**arguments, use_cache=False, output_hidden_states=hidden_states, **asked)


def nats_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the labels that count, in nats; arithmetic in float32."""
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return F.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORED, reduction="sum")
