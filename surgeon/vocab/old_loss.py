"""Old text beside new output rows: what they take from the softmax, and whether one of them wins.

For old text the hidden states and the old logits stay as they are, so the loss of a position rises by exactly
log(1 + sum_j exp(l'_j) / Z).

Shape suffixes: V old rows, N new rows, P positions, D columns, S shares tried together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surgeon.checkpoint.rounding import round_once
from surgeon.vocab.body import Head
from surgeon.vocab.hull import Combination
from surgeon.vocab.matrix import mean_rows
from surgeon.vocab.tokens import NewTokens

_ELEMENTS = 1 << 24  # of logits held at a time
_NEAR = 1e-4  # nats: closer rivals than this are compared in float64


class Found(NamedTuple):
    """loss: nats a token. kept: share of positions at which an old row wins. margin: the least distance, in logits."""

    loss: float
    kept: float
    margin: float


class Output(NamedTuple):
    """Rows as the model will hold them: float32 [N, D] and, where the head has a bias, float32 [N]."""

    rows: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class OldModel:
    """The old model on the probe.

    hidden: [P, D]. log_z: float64 [P], log of the softmax's denominator; gone: [P], the share of it that rows have
    which new ones replace. best: [P, 2], ids of the two best of the other rows (in float32); best_logit: [P], of the
    best. mean: float64 [V], the mean distribution.
    """

    head: Head
    hidden: Tensor
    log_z: Tensor
    gone: Tensor
    best: Tensor
    best_logit: Tensor
    mean: Tensor

    @classmethod
    def measure(cls, head: Head, hidden_PD: Tensor, replaced: Sequence[int]) -> OldModel:
        num, wide = len(hidden_PD), len(head.weight)
        mean_V = torch.zeros(wide, dtype=torch.float64, device=hidden_PD.device)
        parts: list[tuple[Tensor, ...]] = []
        for rows in _chunks(num, wide):
            logits = head.logits(hidden_PD[rows])
            log_z = logits.double().logsumexp(1)
            chances = (logits - log_z[:, None]).exp()
            mean_V += chances.sum(0)
            gone = chances[:, list(replaced)].sum(1)
            logits[:, list(replaced)] = -torch.inf
            best = logits.topk(min(2, wide), dim=1)
            parts.append((log_z, gone, best.indices, best.values[:, 0]))
        log_z_P, gone_P, best_P2, best_logit_P = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(head, hidden_PD, log_z_P, gone_P, best_P2, best_logit_P, mean_V / num)


@dataclass(frozen=True)
class NewRowsBeside:
    """What new rows do beside the old ones of one model and probe.

    stored_head: the output matrix [V, D] as stored. padding: rows of the mean behind the new ones. bias: float64 [N],
    the new biases of dense rows [the mean's].
    """

    old: OldModel
    stored_head: Tensor
    new: NewTokens
    padding: int = 0
    bias: Tensor | None = None

    def stored(self, given: Any) -> Output:
        """The rows rounded to the matrix's dtype; the bias is mixed as they are."""
        return self._made(given, round_once)

    def exact(self, given: Any) -> Output:
        return self._made(given, lambda values, _: values)

    def _made(self, given: Any, rounded: Callable[[Tensor, torch.dtype], Tensor]) -> Output:
        dtype, device = self.stored_head.dtype, self.old.hidden.device
        rows = given.rows(self.stored_head) if isinstance(given, Combination) else given
        held = self.old.head.bias
        bias = None
        if held is not None:
            bias = rounded(self._bias(given, held.cpu()), dtype).float().to(device)
        return Output(rounded(rows, dtype).float().to(device), bias)

    def _bias(self, given: Any, held_V: Tensor) -> Tensor:
        if isinstance(given, Combination):
            return given.rows(held_V)
        return mean_rows(self.new, len(self.new)).rows(held_V) if self.bias is None else self.bias

    def raw(self, output: Output, rows: slice) -> Tensor:
        found = self.old.hidden[rows] @ output.rows.T
        return found if output.bias is None else found + output.bias

    def losses(self, output: Output, mean: Output, shares: Sequence[float]) -> list[float]:
        """The loss increase at each share a of (1 - a) * output + a * mean, before rounding; float64 [S]."""
        head, pad = self.old.head, self._padding
        total = torch.zeros(len(shares), dtype=torch.float64)
        for rows in _chunks(len(pad), len(output.rows)):
            new_PN, mean_P1 = self.raw(output, rows), self.raw(mean, rows)
            log_z = self.old.log_z[rows, None].float()
            for s, a in enumerate(shares):
                logits = head.cap(head.scale * torch.lerp(new_PN, mean_P1, a))
                taken = (logits - log_z).exp().sum(1, dtype=torch.float64) + pad[rows] - self.old.gone[rows]
                total[s] += float(taken.log1p().sum())
        return (total / len(pad)).tolist()

    def measure(self, output: Output) -> Found:
        """Of the rows as given; the padding is the mean as stored."""
        head, old, pad = self.old.head, self.old, self._padding
        loss, beaten, margin = 0.0, 0, math.inf
        for rows in _chunks(len(pad), len(output.rows)):
            logits = head.cap(head.scale * self.raw(output, rows))
            taken = (logits - old.log_z[rows, None].float()).exp().sum(1, dtype=torch.float64)
            loss += float((taken + pad[rows] - old.gone[rows]).log1p().sum())
            top, rival = logits.max(1)
            gap = old.best_logit[rows] - top
            near = (gap < _NEAR).nonzero().flatten()
            if len(near):
                exact = self._gaps(output, near + rows.start, rival[near])
                gap = gap.double().index_copy(0, near, exact)
                beaten += int((exact < 0).sum())
            margin = min(margin, float(gap.min()))
        return Found(loss / len(pad), 1 - beaten / len(pad), margin)

    def _gaps(self, output: Output, at: Tensor, rival: Tensor) -> Tensor:
        """Best old logit minus the rival's, in float64 and in one order of sums: equal rows differ by exactly 0."""
        head, hidden = self.old.head, self.old.hidden[at].double()

        def logit(rows_ND: Tensor, bias_N: Tensor | None, ids: Tensor) -> Tensor:
            found = (hidden * rows_ND[ids].double()).sum(1)
            return head.cap(head.scale * (found if bias_N is None else found + bias_N[ids].double()))

        best = [logit(head.weight, head.bias, ids) for ids in self.old.best[at].T]
        return torch.stack(best).amax(0) - logit(output.rows, output.bias, rival)

    @cached_property
    def _padding(self) -> Tensor:
        """Padding rows * exp(logit of the mean row as stored) / Z, float64 [P]."""
        if not self.padding:
            return torch.zeros_like(self.old.log_z)
        head, mean = self.old.head, self.stored(mean_rows(self.new, 1))
        logits = head.cap(head.scale * self.raw(mean, slice(0, len(self.old.hidden))))[:, 0]
        return self.padding * (logits.double() - self.old.log_z).exp()

    def bounds(self, given: Any) -> tuple[float | None, float | None]:
        """(log(1 + max_i c_i), log(1 + sum_i c_i p_i)), c_i the weight that all new rows put on old row i."""
        if not isinstance(given, Combination) or self.old.head.softcap is not None:
            return None, None
        sums_V = torch.zeros(len(self.stored_head), dtype=torch.float64)
        sums_V.index_add_(0, given.indices, given.weights)
        shares = 0.0 if given.mean_weights is None else float(given.mean_weights.sum())
        for weight, ids in ((shares, given.mean_ids), (float(self.padding), mean_rows(self.new, 1).mean_ids)):
            if weight and ids is not None:
                count = int((ids[:, 1] - ids[:, 0]).sum())
                for a, b in ids.tolist():
                    sums_V[a:b] += weight / count
        return math.log1p(float(sums_V.max())), math.log1p(float(sums_V @ self.old.mean.cpu()))


def _chunks(num: int, width: int) -> Iterator[slice]:
    """Slices of the positions, so many that their logits are at most _ELEMENTS."""
    step = max(1, _ELEMENTS // max(width, 1))
    for start in range(0, num, step):
        yield slice(start, min(start + step, num))
