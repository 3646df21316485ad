"""New rows as softmax(A1 A2) over all usable old rows, trained by Adam on both factors.

Shape suffixes: U usable old rows, N new rows, M of them in the text, F rank of the factors, D columns,
R rows of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.vocab.threads import Spread


class DenseRows:
    """softmax(A1 A2) E, E [U, D] in the dtype of the factors A1 [N, F] and A2 [F, U]. held int64 [M]: places in A1.

    Only the rows that are asked for are computed (the released code computes all N in every step).
    """

    def __init__(self, old_UD: Tensor, a1_NF: Tensor, a2_FU: Tensor, held_M: Tensor) -> None:
        self.old_UD, self.a1, self.a2, self.held = old_UD, a1_NF.clone(), a2_FU.clone(), held_M
        self.optimizer = torch.optim.Adam([self.a1, self.a2])
        self._last: tuple[Tensor, Tensor] | None = None

    def rows(self, which_R: Tensor, run: Spread) -> Tensor:
        self._last = (which_R, self.weights(self.held[which_R]))
        return self._last[1] @ self.old_UD

    def weights(self, places: Tensor) -> Tensor:
        """The weights of these places of A1 over the usable rows, [len(places), U]."""
        return torch.softmax(self.a1[places] @ self.a2, dim=1)

    def step(self, which_R: Tensor, gradient_RD: Tensor, lr: float, run: Spread) -> None:
        known = self._last is not None and torch.equal(self._last[0], which_R)
        weights_RU = self._last[1] if known and self._last is not None else self.weights(self.held[which_R])
        in_weights_RU = gradient_RD @ self.old_UD.T
        in_logits_RU = weights_RU * (in_weights_RU - (weights_RU * in_weights_RU).sum(1, keepdim=True))
        places = self.held[which_R]
        self.a2.grad = self.a1[places].T @ in_logits_RU
        self.a1.grad = torch.zeros_like(self.a1).index_add_(0, places, in_logits_RU @ self.a2.T)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self._last = None
