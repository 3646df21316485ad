"""A transformers model that reads and predicts new tokens while its own rows and its body stay as they are.

The model's embedding and head modules are replaced by ones that hold the new rows beside them, so whatever the model
does around them (a scaled embedding, soft-capped or scaled logits) is done to new rows as to old ones.

Shape suffixes: B texts, T positions, V rows of the model, N new rows, D columns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from surgeon.errors import SurgeonError


class _Embedding(nn.Module):
    """The model's embedding module, called on the new rows too: what it does to a row (a scale) it does to all."""

    def __init__(self, old: nn.Embedding, place: Tensor) -> None:
        super().__init__()
        self.old, self.place = old, place
        of_new: Any = copy.copy(old)
        of_new._parameters = {}  # of its own, so that its weight can be a plain tensor with a history
        of_new.padding_idx = None  # it names an old row, and changes gradients alone
        self.of_new = of_new

    def forward(self, ids_BT: Tensor) -> Tensor:
        at_BT = self.place[ids_BT]
        is_new = at_BT >= 0
        out_BTD = self.old(torch.where(is_new, 0, ids_BT))
        if not bool(is_new.any()):
            return out_BTD
        return out_BTD.index_put((is_new,), self.of_new(at_BT[is_new]))


class _Head(nn.Module):
    """The model's head, with logits of the new rows at their ids."""

    def __init__(self, old: nn.Linear, ids: Tensor) -> None:
        super().__init__()
        self.old, self.ids = old, ids
        self.follow = torch.equal(ids, torch.arange(len(old.weight), len(old.weight) + len(ids), device=ids.device))
        self.rows: Tensor | None = None
        self.bias: Tensor | None = None

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        old_BTV = self.old(hidden_BTD)
        if self.rows is None:  # not set yet
            return old_BTV
        new_BTN = linear(hidden_BTD, self.rows, self.bias)
        if self.follow:
            return torch.cat([old_BTV, new_BTN], -1)
        beyond = max(0, int(self.ids.max()) + 1 - old_BTV.shape[-1])
        return nn.functional.pad(old_BTV, (0, beyond)).index_copy(-1, self.ids, new_BTN)


class Extended:
    """A model with places for new rows; `set` the rows, then call it."""

    def __init__(self, model: Any, embedding: _Embedding, head: _Head) -> None:
        self.model, self._embedding, self._head = model, embedding, head

    @property
    def device(self) -> torch.device:
        return self.old_input.device

    @property
    def old_input(self) -> Tensor:
        """The model's embedding [V, D], float32."""
        weight: Tensor = self._embedding.old.weight
        return weight

    @property
    def old_output(self) -> Tensor:
        """The model's head [V, D], float32; the same tensor as `old_input` where they are tied."""
        weight: Tensor = self._head.old.weight
        return weight

    @property
    def old_bias(self) -> Tensor | None:
        """The head's bias [V], None where it has none."""
        return self._head.old.bias

    def set(self, input_ND: Tensor, output_ND: Tensor, bias_N: Tensor | None = None) -> None:
        """The rows (and head biases) of the new ids, in the order of the ids; gradients flow to them alone."""
        of_new: Any = self._embedding.of_new
        of_new.weight = input_ND
        self._head.rows, self._head.bias = output_ND, bias_N

    def logits(self, ids_BT: Tensor) -> Tensor:
        """[B, T, V + N]; at an id that replaces one of the model's rows stands the new row's logit."""
        return self.model(input_ids=ids_BT, use_cache=False).logits

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """What enters the head, [B, T, D]."""
        return self.model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state

    def both(self, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(hidden, logits) from one pass."""
        found = self.model(input_ids=ids_BT, use_cache=False, output_hidden_states=True)
        return found.hidden_states[-1], found.logits

    def check(self, where: str) -> None:
        """Refuse a model that treats new rows otherwise than old ones: copies of old rows must act as these do."""
        ids = self._head.ids
        count = min(len(ids), len(self.old_input), 16)
        old = torch.arange(len(ids), device=self.device) % count
        bias = None if self.old_bias is None else self.old_bias[old]
        with torch.no_grad():
            self.set(self.old_input[old], self.old_output[old], bias)
            by_old, by_new = (self.logits(x[None, :count])[0] for x in (old, ids))
        same = by_new[:, : len(self.old_input)], by_old[:, : len(self.old_input)]
        copied = by_new[:, ids], by_old[:, old]
        for a, b in (same, copied):
            if not torch.allclose(a, b, rtol=1e-4, atol=1e-4):
                raise SurgeonError(
                    f"new rows do not pass through {type(self.model).__name__} as old ones do",
                    where,
                    "use another --init for this model",
                )


@contextmanager
def extended(model: Any, ids: Sequence[int], where: str) -> Iterator[Extended]:
    """`model` with new rows at `ids` for the time of the context; afterwards it is as it was.

    Raises SurgeonError for a model whose head is no linear layer, or that treats new rows in another way.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(embedding, nn.Embedding) or not isinstance(head, nn.Linear):
        raise SurgeonError(
            f"{type(model).__name__} has no embedding and linear head that new rows can be put beside",
            where,
            "use another --init for this model",
        )
    place = torch.full((max(len(embedding.weight), max(ids) + 1),), -1, device=embedding.weight.device)
    chosen = torch.tensor(ids, device=place.device)
    place[chosen] = torch.arange(len(ids), device=place.device)
    wrapped = _Embedding(embedding, place), _Head(head, chosen)
    model.set_input_embeddings(wrapped[0])
    model.set_output_embeddings(wrapped[1])
    try:
        found = Extended(model, *wrapped)
        found.check(where)
        yield found
    finally:
        model.set_input_embeddings(embedding)
        model.set_output_embeddings(head)
