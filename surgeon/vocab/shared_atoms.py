"""Old rows that all new rows share: entered by Frank-Wolfe steps, their shares corrected by Adam.

Shape suffixes: V old rows, U usable old rows, A atoms, D columns, R rows of a step.
Source: Frank and Wolfe 1956, "An algorithm for quadratic programming"; Jaggi 2013, "Revisiting Frank-Wolfe:
Projection-Free Sparse Convex Optimization", algorithms 1 and 4 (steps that correct the weights of all atoms).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from surgeon.vocab.threads import Spread

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
_LR = 0.3
_PIECE = 4_000_000  # numbers of one piece of old rows in the dtype of the arithmetic


def best_atom(old_VD: Tensor, usable_U: Tensor, gradient_D: Tensor, run: Spread) -> int:
    """The usable id i of the least <gradient, old row i> (the first of equals), in the dtype of the gradient."""

    def scores(ids: Tensor) -> Tensor:
        return old_VD[ids].to(gradient_D.dtype) @ gradient_D

    pieces = usable_U.split(max(1, _PIECE // old_VD.shape[1]))
    return int(usable_U[torch.cat(run(scores, pieces)).argmin()])


class SharedAtoms:
    """A row is (1 - sum of shares) of its own mixture plus the shares of the atoms, the same shares for all rows.

    ids: of the atoms. logits [1+A]: of the share of the own mixture, then of the atoms. At first there is no atom.
    """

    def __init__(self, old_VD: Tensor, dtype: torch.dtype) -> None:
        self.old_VD = old_VD
        self.ids: list[int] = []
        self.rows_AD = torch.empty(0, old_VD.shape[1], dtype=dtype)
        self.logits = torch.zeros(1, dtype=dtype)
        self._moments = torch.zeros(2, 1, dtype=dtype)
        self._steps = 0

    def enter(self, atom: int, share: float) -> None:
        """Move every row `share` of the way to the old row `atom`, which may be an atom already."""
        if atom not in self.ids:
            self.ids.append(atom)
            self.rows_AD = torch.cat([self.rows_AD, self.old_VD[atom : atom + 1].to(self.rows_AD.dtype)])
            self.logits = pad(self.logits, (0, 1), value=-torch.inf)
            self._moments = pad(self._moments, (0, 1))
        logits = torch.log_softmax(self.logits, dim=0) + math.log1p(-share)
        place = self.ids.index(atom) + 1
        logits[place] = torch.logaddexp(logits[place], logits.new_tensor(math.log(share)))
        self.logits = logits

    def mixed(self, own_RD: Tensor) -> Tensor:
        """The rows from their own mixtures, written over them."""
        shares = torch.softmax(self.logits, dim=0)
        return own_RD.mul_(shares[0]).add_(shares[1:] @ self.rows_AD)

    def gradient(self, own_RD: Tensor, gradient_RD: Tensor) -> Tensor:
        """d loss / d logits [1+A] from the own mixtures and d loss / d rows."""
        in_shares = torch.cat([(gradient_RD * own_RD).sum()[None], self.rows_AD @ gradient_RD.sum(0)])
        shares = torch.softmax(self.logits, dim=0)
        return shares * (in_shares - shares @ in_shares)

    def step(self, own_RD: Tensor, gradient_RD: Tensor) -> Tensor:
        """One step of Adam on the logits; gives d loss / d own mixtures [R, D], of before the step."""
        share = torch.softmax(self.logits, dim=0)[0]
        gradient = self.gradient(own_RD, gradient_RD)
        self._steps += 1
        self._moments[0].lerp_(gradient, 1 - BETA1)
        self._moments[1].mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        size = (self._moments[1] / (1 - BETA2**self._steps)).sqrt_().add_(EPSILON)
        self.logits = self.logits - _LR / (1 - BETA1**self._steps) * self._moments[0] / size
        return gradient_RD * share


class Schedule:
    """Which batches enter an atom instead of a step of Adam: `refresh` of an epoch, evenly spaced, first the first.

    Step t = 0, 1, ... of the training goes the share 2 / (t + 4) of the way. Jaggi's is 2 / (t + 2), whose first step
    forgets the start; two steps later it keeps half of it.
    """

    def __init__(self, usable_U: Tensor, refresh: int) -> None:
        self.usable, self._refresh = usable_U, refresh
        self._steps = self._of_epoch = 0

    def begin_epoch(self) -> None:
        self._of_epoch = 0

    def share(self, position: int, total: int) -> float | None:
        """How far the batch that begins after `position` of `total` tokens of the epoch goes; None for one of Adam."""
        if self._of_epoch >= self._refresh or position * self._refresh < self._of_epoch * total:
            return None
        self._steps, self._of_epoch = self._steps + 1, self._of_epoch + 1
        return 2 / (self._steps + 3)
