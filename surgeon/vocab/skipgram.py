"""Skip-gram with negative sampling over frozen old rows, in which only the convex weights of new rows are trained.

Shape suffixes: V old rows, N new rows, K candidates of a new row, D columns, B pairs, S negatives, U rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass
class Rows:
    """New rows of one matrix: softmax(logits) over K old rows and, last, the mean. Only `logits` [N, K+1] is trained.

    old [V, D], mean [D], candidates int64 [N, K]; a candidate that is not there has the logit -inf and weight 0.
    """

    old: Tensor
    mean: Tensor
    candidates: Tensor
    logits: Tensor
    first_new: int

    def __call__(self, ids_B: Tensor) -> Tensor:
        """The rows of `ids_B` (old or new), float32 [B, D]; of the candidates only those of these ids are gathered."""
        out_BD = self.old[torch.where(ids_B < self.first_new, ids_B, 0)]
        new = ids_B >= self.first_new
        if not bool(new.any()):
            return out_BD
        unique_U, place = torch.unique(ids_B[new] - self.first_new, return_inverse=True)
        weights = torch.softmax(self.logits[unique_U], dim=1)
        gathered_UKD = self.old[self.candidates[unique_U]]
        rows_UD = torch.einsum("uk,ukd->ud", weights[:, :-1], gathered_UKD) + weights[:, -1:] * self.mean
        return out_BD.index_put((torch.nonzero(new).flatten(),), rows_UD[place])

    def weights(self) -> Tensor:
        """float64 [N, K+1], each row on the simplex."""
        return torch.softmax(self.logits.detach().to(torch.float64), dim=1)


def pairs(
    tokens: np.ndarray, documents: np.ndarray, first_new: int, window: int, batch: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """(centre, context) in batches, positions shuffled; only pairs with a new token on either side, for only those
    have a gradient."""
    found: list[np.ndarray] = []
    is_new = tokens >= first_new
    for offset in range(1, window + 1):
        same = (documents[:-offset] == documents[offset:]) & (is_new[:-offset] | is_new[offset:])
        left = np.flatnonzero(same)
        found += [np.stack([left, left + offset]), np.stack([left + offset, left])]
    both = np.concatenate(found, axis=1)
    both = both[:, rng.permutation(both.shape[1])]
    for start in range(0, both.shape[1], batch):
        centre, context = tokens[both[:, start : start + batch]]
        yield torch.from_numpy(centre), torch.from_numpy(context)


def subsample(counts: np.ndarray, tokens: np.ndarray, threshold: float, rng: np.random.Generator) -> np.ndarray:
    """A mask that keeps a token of relative frequency f with probability min(1, sqrt(threshold / f))."""
    frequency = counts[tokens] / len(tokens)
    return rng.random(len(tokens)) < np.sqrt(threshold / frequency)


def train(
    inputs: Rows,
    outputs: Rows,
    tokens: np.ndarray,
    documents: np.ndarray,
    rng: np.random.Generator,
    *,
    window: int,
    negatives: int,
    shared: int,
    batch: int,
    epochs: int,
    lr: float,
    threshold: float,
) -> list[float]:
    """Minimise  -log s(v.u+) - sum over negatives of log s(-v.u-)  with Adam; returns the mean loss of each epoch.

    All pairs of a batch share `shared` negatives, drawn in proportion to count^0.75 and weighted to count as
    `negatives` a pair, so that they are one matrix product.
    """
    counts = np.bincount(tokens, minlength=int(tokens.max()) + 1).astype(np.float64)
    noise = np.cumsum(counts**0.75)
    logits = [inputs.logits] if inputs is outputs else [inputs.logits, outputs.logits]
    optimizer = torch.optim.Adam(logits, lr=lr)
    history: list[float] = []
    for _ in range(epochs):
        keep = subsample(counts, tokens, threshold, rng)
        losses: list[float] = []
        for centre, context in pairs(tokens[keep], documents[keep], inputs.first_new, window, batch, rng):
            drawn = np.searchsorted(noise, rng.random(shared) * noise[-1], side="right")
            v_BD, u_BD = inputs(centre), outputs(context)
            n_SD = outputs(torch.from_numpy(drawn))
            positive = logsigmoid((v_BD * u_BD).sum(1))
            negative = logsigmoid(-(v_BD @ n_SD.T)).sum(1) * (negatives / shared)
            loss = -(positive + negative).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        history.append(float(np.mean(losses)) if losses else float("nan"))
    return history
