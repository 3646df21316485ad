"""Skip-gram with negative sampling over frozen old rows: the loss, its gradient in the rows, and the training.

How the new rows depend on what is trained is the affair of `Learned`: this file gives it gradients of whole rows.

Shape suffixes: B pairs, I rows of centres, O rows of contexts and negatives, S shared negatives, K negatives of a
pair, D columns.
Source: Mikolov et al. 2013, "Distributed Representations of Words and Phrases", section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from surgeon.progress import SILENT, Progress
from surgeon.vocab.convex_rows import ConvexRows
from surgeon.vocab.shared_atoms import Schedule, best_atom
from surgeon.vocab.skipgram_text import Noise, Text, pairs
from surgeon.vocab.threads import Spread, spread

_PIECE = 250_000  # numbers of one piece of work: its rows stay in the cache of a core
_PAIRS = 256  # pairs of one

# the loss summed over the pairs, and its gradient in the rows of both sides
Gradient = tuple[float, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, Spread], Gradient]


def shared_negatives(
    v_ID: Tensor, u_OD: Tensor, centre_B: Tensor, context_B: Tensor, drawn_S: Tensor, negatives: int, run: Spread
) -> Gradient:
    """Sum over pairs of  -log s(v.u) - negatives / S * sum over the drawn of log s(-v.n),  s the logistic function.

    centre_B: places in v_ID; context_B, drawn_S: places in u_OD. All pairs share the S negatives, weighted to count as
    `negatives` a pair, so that they are one matrix product. Arithmetic in the dtype of the rows, the loss in float64.
    """
    positive_B = _scores(v_ID, u_OD, centre_B, context_B, run)
    piece = _rows_of_a_piece(v_ID)
    drawn_SD = u_OD[drawn_S]
    share_I1 = torch.bincount(centre_B, minlength=len(v_ID)).to(v_ID.dtype)[:, None] * (negatives / len(drawn_S))
    scores_IS = torch.cat(run(lambda rows: rows @ drawn_SD.T, v_ID.split(piece)))
    loss = softplus(-positive_B).sum(dtype=torch.float64)
    loss += (share_I1 * softplus(scores_IS)).sum(dtype=torch.float64)
    slope_IS = share_I1 * torch.sigmoid(scores_IS)
    grad_ID, grad_OD = _pulled(v_ID, u_OD, centre_B, context_B, -torch.sigmoid(-positive_B), run)
    grad_ID += torch.cat(run(lambda slopes: slopes @ drawn_SD, slope_IS.split(piece)))
    grad_SD = torch.cat(run(lambda slopes: slopes @ v_ID, slope_IS.T.contiguous().split(piece)))
    return float(loss), grad_ID, grad_OD.index_add_(0, drawn_S, grad_SD)


def summed_negatives(
    v_ID: Tensor, u_OD: Tensor, centre_B: Tensor, context_B: Tensor, drawn_BK: Tensor, negatives: int, run: Spread
) -> Gradient:
    """Sum over pairs of  -log s(v.u) - log s(-sum over the pair's own negatives of v.n): the released code's loss.

    One positive term of the inner sum can stand against the others; word2vec has the sum outside of log s.
    """
    positive_B = _scores(v_ID, u_OD, centre_B, context_B, run)
    centres_BK = centre_B[:, None].expand_as(drawn_BK).flatten()
    together_B = _scores(v_ID, u_OD, centres_BK, drawn_BK.flatten(), run).view(drawn_BK.shape).sum(1)
    loss = softplus(-positive_B).sum(dtype=torch.float64) + softplus(together_B).sum(dtype=torch.float64)
    slope_BK = torch.sigmoid(together_B)[:, None].expand_as(drawn_BK).flatten()
    centre = torch.cat([centre_B, centres_BK])
    context = torch.cat([context_B, drawn_BK.flatten()])
    slopes = torch.cat([-torch.sigmoid(-positive_B), slope_BK])
    return float(loss), *_pulled(v_ID, u_OD, centre, context, slopes, run)


def _scores(v_ID: Tensor, u_OD: Tensor, centre_B: Tensor, context_B: Tensor, run: Spread) -> Tensor:
    """v.u of each pair. Pairs that stand together share rows: a piece is one product of its different rows."""

    def piece(at: tuple[Tensor, Tensor]) -> Tensor:
        rows, centre = torch.unique(at[0], return_inverse=True)
        columns, context = torch.unique(at[1], return_inverse=True)
        return (v_ID[rows] @ u_OD[columns].T)[centre, context]

    return torch.cat(run(piece, zip(centre_B.split(_PAIRS), context_B.split(_PAIRS), strict=True)))


def _pulled(
    v_ID: Tensor, u_OD: Tensor, centre_B: Tensor, context_B: Tensor, slope_B: Tensor, run: Spread
) -> tuple[Tensor, Tensor]:
    """The gradient in both sets of rows from that in the scores of pairs: two sparse products."""
    from scipy.sparse import coo_array

    piece = _rows_of_a_piece(v_ID)
    at = (centre_B.numpy(), context_B.numpy())
    slopes = coo_array((slope_B.numpy(), at), shape=(len(v_ID), len(u_OD)))
    out = []
    for matrix, rows in ((slopes.tocsr(), u_OD.numpy()), (slopes.T.tocsr(), v_ID.numpy())):
        starts = range(0, matrix.shape[0], piece)
        out.append(torch.cat(run(partial(_times, matrix, rows, piece), starts)))
    return out[0], out[1]


def _times(matrix: Any, rows: np.ndarray, piece: int, start: int) -> Tensor:
    return torch.from_numpy(matrix[start : start + piece] @ rows)


def _rows_of_a_piece(rows: Tensor) -> int:
    return max(1, _PIECE // rows.shape[1])


class Learned(Protocol):
    """The new rows that the text holds, as functions of what is trained."""

    def rows(self, which_R: Tensor, run: Spread) -> Tensor:
        """[R, D], in the dtype of the arithmetic."""
        ...

    def step(self, which_R: Tensor, gradient_RD: Tensor, lr: float, run: Spread) -> None:
        """One step of Adam from the gradient in the rows `which_R`, those that `rows` gave last."""
        ...


@dataclass
class Matrix:
    """One matrix of the vocabulary: old rows [V, D] as stored, and the learned ones."""

    old_VD: Tensor  # noqa: N815
    learned: Learned
    text: Text
    dtype: torch.dtype = torch.float32

    def rows(self, codes: Tensor, run: Spread) -> Tensor:
        """The rows of `codes` (old or new), [len(codes), D]; only those are converted from the stored dtype."""
        out = torch.empty(len(codes), self.old_VD.shape[1], dtype=self.dtype)
        place = torch.from_numpy(self.text.rows)[codes]
        ids = torch.from_numpy(self.text.ids)[codes]
        new = place >= 0
        out[~new] = self.old_VD[ids[~new]].to(self.dtype)
        if bool(new.any()):
            out[new] = self.learned.rows(place[new], run)
        return out


@dataclass(frozen=True)
class Objective:
    """A loss, the negatives a pair counts, and how many all pairs of a batch share (None: each pair has its own)."""

    loss: Loss = shared_negatives
    negatives: int = 5
    shared: int | None = 64

    def draw(self, noise: Noise, count: int, rng: np.random.Generator) -> np.ndarray:
        return noise.draw((count, self.negatives) if self.shared is None else (self.shared,), rng)


def train(
    inputs: Matrix,
    outputs: Matrix,
    rng: np.random.Generator,
    objective: Objective,
    *,
    window: int,
    batch: int,
    epochs: int,
    lr: float,
    threshold: float,
    jumps: Schedule | None = None,
    progress: Progress = SILENT,
) -> list[float]:
    """Train both matrices (one where they are the same object); gives the mean loss a pair of each epoch, as met.

    The batches that `jumps` names enter an atom, which only `ConvexRows` can, the others take a step of Adam.
    """
    how = (window, batch, lr, threshold, jumps, progress)
    return [_pass(inputs, outputs, rng, objective, *how, f"skip-gram {n + 1}/{epochs}") for n in range(epochs)]


def mean_loss(
    inputs: Matrix, outputs: Matrix, rng: np.random.Generator, objective: Objective, *, window: int, batch: int
) -> float:
    """The mean loss over all pairs of the text that have a new token; nothing is trained."""
    return _pass(inputs, outputs, rng, objective, window, batch, None, np.inf, None, SILENT, "")


def _pass(
    inputs: Matrix, outputs: Matrix, rng: np.random.Generator, objective: Objective, window: int, batch: int,
    lr: float | None, threshold: float, jumps: Schedule | None, progress: Progress, name: str,
) -> float:  # fmt: skip
    text = inputs.text
    noise, is_new = Noise(text.counts), text.rows >= 0
    codes, documents = text.subsampled(threshold, rng)
    total, count, done = 0.0, 0, 0
    if jumps is not None:
        jumps.begin_epoch()
    with spread() as run, progress.task(name, len(codes), "tokens") as advance:
        for positions, centre, context in pairs(codes, documents, is_new, window, batch, rng):
            advance(positions)
            begun, done = done, done + positions
            if not len(centre):
                continue
            drawn = objective.draw(noise, len(centre), rng)
            in_codes, centre_B = np.unique(centre, return_inverse=True)
            out_codes, places = np.unique(np.concatenate([context, drawn.ravel()]), return_inverse=True)
            in_I, out_O = torch.from_numpy(in_codes), torch.from_numpy(out_codes)
            v_ID, u_OD = inputs.rows(in_I, run), outputs.rows(out_O, run)
            parts = (centre_B, places[: len(centre)], places[len(centre) :].reshape(drawn.shape))
            at_B, to_B, negative = (torch.from_numpy(part) for part in parts)
            loss, grad_ID, grad_OD = objective.loss(v_ID, u_OD, at_B, to_B, negative, objective.negatives, run)
            total, count = total + loss, count + len(centre)
            if lr is None:
                continue
            sides = [(inputs, in_I, grad_ID), (outputs, out_O, grad_OD)]
            if inputs is outputs:
                sides = [(inputs, torch.cat([in_I, out_O]), torch.cat([grad_ID, grad_OD]))]
            share = None if jumps is None else jumps.share(begun, len(codes))
            for side in sides:
                if jumps is None or share is None:
                    _step(*side, lr, run)
                else:
                    _jump(*side, jumps.usable, share, run)
    return total / count if count else float("nan")


def _step(matrix: Matrix, codes: Tensor, gradient: Tensor, lr: float, run: Spread) -> None:
    place = torch.from_numpy(matrix.text.rows)[codes]
    which_R, where = torch.unique(place[place >= 0], return_inverse=True)
    gradient_RD = torch.zeros(len(which_R), gradient.shape[1], dtype=gradient.dtype)
    if len(which_R):
        matrix.learned.step(which_R, gradient_RD.index_add_(0, where, gradient[place >= 0]), lr, run)


def _jump(matrix: Matrix, codes: Tensor, gradient: Tensor, usable_U: Tensor, share: float, run: Spread) -> None:
    assert isinstance(matrix.learned, ConvexRows)
    new = torch.from_numpy(matrix.text.rows)[codes] >= 0
    if bool(new.any()):
        matrix.learned.atoms.enter(best_atom(matrix.old_VD, usable_U, gradient[new].sum(0), run), share)
