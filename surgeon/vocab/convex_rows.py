"""New rows as softmax weights over a few old rows and the mean row, trained by Adam on the logits of rows in use.

Shape suffixes: V old rows, M new rows, K candidates of a new row, A atoms that all share, D columns, R rows of a step.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from surgeon.vocab.shared_atoms import BETA1, BETA2, EPSILON, SharedAtoms
from surgeon.vocab.threads import Spread, spread

_PIECE = 1_000_000  # numbers of one piece of work: the candidates of its rows stay in the cache of a core


class ConvexRows:
    """softmax(logits) over K old rows and, last, the mean. Holds the M rows themselves, [M, D], beside the weights.

    old_VD in its stored dtype, mean_D, candidates int64 [M, K], logits [M, K+1] (-inf where a candidate is not there:
    its weight stays 0). A row whose gradient comes is read once: its candidates give the gradient in the logits, the
    step, and the row anew. Each row has its own count of steps for Adam's bias correction, so a row that no batch
    holds stands still, but for the `atoms` that all rows share. M x D holds the mixtures without them.
    """

    def __init__(self, old_VD: Tensor, mean_D: Tensor, candidates_MK: Tensor, logits: Tensor) -> None:
        self.old_VD, self.mean_D, self.candidates, self.logits = old_VD, mean_D, candidates_MK, logits.clone()
        self.first, self.second = torch.zeros_like(logits), torch.zeros_like(logits)
        self.steps = torch.zeros(len(logits), 1, dtype=logits.dtype)
        self.atoms = SharedAtoms(old_VD, logits.dtype)
        self.values_MD = torch.empty(len(logits), old_VD.shape[1], dtype=logits.dtype)
        self._piece = max(1, _PIECE // (candidates_MK.shape[1] * old_VD.shape[1]))
        self._buffers = threading.local()
        with spread() as run:
            run(self._refresh, torch.arange(len(logits)).split(self._piece))

    def rows(self, which_R: Tensor, run: Spread) -> Tensor:
        own_RD = self.values_MD[which_R]
        return self.atoms.mixed(own_RD) if self.atoms.ids else own_RD

    def step(self, which_R: Tensor, gradient_RD: Tensor, lr: float, run: Spread) -> None:
        if self.atoms.ids:
            gradient_RD = self.atoms.step(self.values_MD[which_R], gradient_RD)
        pieces = zip(which_R.split(self._piece), gradient_RD.split(self._piece), strict=True)
        run(lambda piece: self._step(piece[0], piece[1], lr), pieces)

    def weights(self) -> Tensor:
        """float64 [M, K+1+A], each row on the simplex: its candidates, the mean, the atoms."""
        own = torch.softmax(self.logits.to(torch.float64), dim=1)
        shares = torch.softmax(self.atoms.logits.to(torch.float64), dim=0)
        return torch.cat([own * shares[0], shares[1:].expand(len(own), -1)], dim=1)

    def logit_gradient(self, which_R: Tensor, gradient_RD: Tensor) -> Tensor:
        """d loss / d logits [R, K+1] from d loss / d own mixtures [R, D]."""
        pieces = zip(which_R.split(self._piece), gradient_RD.split(self._piece), strict=True)
        return torch.cat([self._pull(which, gradient, self._gather(which)) for which, gradient in pieces])

    def _pull(self, which_R: Tensor, gradient_RD: Tensor, found_RKD: Tensor) -> Tensor:
        in_candidates = torch.bmm(gradient_RD[:, None], found_RKD.transpose(1, 2))[:, 0]
        in_weights = torch.cat([in_candidates, (gradient_RD @ self.mean_D)[:, None]], dim=1)
        weights = torch.softmax(self.logits[which_R], dim=1)
        return weights * (in_weights - (weights * in_weights).sum(1, keepdim=True))

    def _step(self, which_R: Tensor, gradient_RD: Tensor, lr: float) -> None:
        found_RKD = self._gather(which_R)
        gradient = self._pull(which_R, gradient_RD, found_RKD)
        steps = self.steps[which_R] + 1
        first = self.first[which_R].lerp_(gradient, 1 - BETA1)
        second = self.second[which_R].mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        size = (second / (1 - BETA2**steps)).sqrt_().add_(EPSILON)
        self.logits[which_R] -= lr / (1 - BETA1**steps) * first / size
        self.steps[which_R], self.first[which_R], self.second[which_R] = steps, first, second
        self._write(which_R, found_RKD)

    def _refresh(self, which_R: Tensor) -> None:
        self._write(which_R, self._gather(which_R))

    def _write(self, which_R: Tensor, found_RKD: Tensor) -> None:
        weights = torch.softmax(self.logits[which_R], dim=1)
        mixed_RD = torch.bmm(weights[:, None, :-1], found_RKD)[:, 0]
        self.values_MD[which_R] = mixed_RD.addcmul_(weights[:, -1:], self.mean_D)

    def _gather(self, which_R: Tensor) -> Tensor:
        """The candidates' rows [R, K, D] in the dtype of the logits, in a buffer of this worker."""
        ids = self.candidates[which_R].flatten()
        if not hasattr(self._buffers, "wide"):
            size = (self._piece * self.candidates.shape[1], self.old_VD.shape[1])
            self._buffers.stored = torch.empty(size, dtype=self.old_VD.dtype)
            self._buffers.wide = torch.empty(size, dtype=self.logits.dtype)
        stored, wide = self._buffers.stored[: len(ids)], self._buffers.wide[: len(ids)]
        torch.index_select(self.old_VD, 0, ids, out=stored)
        return wide.copy_(stored).view(len(which_R), -1, self.old_VD.shape[1])
