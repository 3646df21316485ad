"""Constrained Word2Vec: convex weights over a few old rows, trained by skip-gram on the target text."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from surgeon.errors import UsageError
from surgeon.ops.kernels.combine import mean_row
from surgeon.ops.plan import runs
from surgeon.progress import Progress
from surgeon.vocab.convex_rows import ConvexRows
from surgeon.vocab.hull import Combination
from surgeon.vocab.neighbours import neighbours
from surgeon.vocab.shared_atoms import Schedule
from surgeon.vocab.skipgram import Matrix, Objective, train
from surgeon.vocab.skipgram_text import Text
from surgeon.vocab.tokens import NewTokens

HULL = True
BATCH_INDEPENDENT = False  # all new tokens are trained together
READS_TEXT = True
PAIRED = True


def cw2v(
    new: NewTokens,
    input_VD: Tensor,
    output_VD: Tensor,
    pair_seed: int,
    progress: Progress,
    *,
    candidates: int = 32,
    piece_share: float = 0.8,
    mean_share: float = 0.1,
    window: int = 5,
    negatives: int = 5,
    shared_negatives: int = 64,
    batch: int = 8192,
    epochs: int = 1,
    lr: float = 0.01,
    refresh: int = 0,
    subsample: float = 1e-3,
    dimensions: int = 64,
    max_tokens: int = 1_000_000,
) -> tuple[Combination, Combination]:
    """Weights of each new row over its old pieces, its nearest old tokens by company (PPMI-SVD) and the mean row.

    Gives the input and the output rows, trained together (input rows as centres, output rows as contexts; one set of
    weights, twice, when tied) in float32 from one stream of random numbers; the weights are float64. `batch` is the
    most pairs of a step. They start with `piece_share` on the pieces, `mean_share` on the mean and the rest on the
    neighbours, and stay there for a token that the first `max_tokens` of the text do not hold. Memory beside the two
    matrices as stored: a float32 row for each new token of the text and matrix. The same bytes for any number of
    threads. Against the released code: the sum over negatives stands outside of log sigma, subsampling is on relative
    frequencies, the text is shuffled in short runs, negatives are drawn with replacement and shared by a batch, pairs
    of two old tokens are left out, and no |new| x |old| matrix is made (for that see `cw2v_dense`).
    A lower loss is not a better model: what lowers it most is a shift that all new rows share, so long training or a
    high rate makes them alike (`epochs=0` gives the start).

    `refresh` batches of an epoch, evenly spaced from its first, take a Frank-Wolfe step instead: the usable old row
    that lowers the loss of the batch fastest, when all new rows of the text move to it, becomes an atom that they
    share, and Adam corrects the shares at each later batch. This is for a low skip-gram loss, and it is that shift: on
    `base` with 256 tokens of medical_en, `refresh=4` makes all new rows nearly the same and worse in the model (2.755
    bits per byte before any training, against 2.592 without, 2.576 at the start, and 2.672 for `mean`). There is one
    atom for all rows: one of its own for each row lowered the held-out loss less, and takes |new| x |old| products.
    Source: Constrained Word2Vec, arXiv 2407.05841; for the atoms Frank and Wolfe 1956, Jaggi 2013.
    """
    if not (piece_share > 0 and mean_share > 0 and piece_share + mean_share < 1):
        raise UsageError("the shares must be above zero and sum to less than 1", "--option piece_share", "0.8 and 0.1")
    if (
        min(candidates, window, negatives, shared_negatives, batch, dimensions, max_tokens) < 1
        or min(epochs, refresh) < 0
    ):
        raise UsageError("counts must be at least 1", "--option", "see `surgeon methods init`")
    if not (lr > 0 and subsample > 0):
        raise UsageError("lr and subsample must be above zero", "--option", "try 0.01 and 1e-3")
    text = Text.read(new, "cw2v", max_tokens, len(input_VD))
    tokens = text.ids[text.codes]
    near = neighbours(
        tokens, text.documents, new.ids, new.usable, window=window, num=candidates, dimensions=dimensions
    )
    ids_NK, logits = first_logits(new, near, candidates, piece_share, mean_share)
    inputs = matrix(input_VD, new, text, ids_NK, logits)
    outputs = inputs if output_VD is input_VD else matrix(output_VD, new, text, ids_NK, logits)
    train(
        inputs, outputs, np.random.Generator(np.random.Philox(pair_seed)),
        Objective(negatives=negatives, shared=shared_negatives),
        window=window, batch=batch, epochs=epochs, lr=lr, threshold=subsample,
        jumps=Schedule(torch.tensor(new.usable), refresh) if refresh else None, progress=progress,
    )  # fmt: skip
    given_input = _combination(inputs, new, ids_NK, logits)
    return given_input, given_input if outputs is inputs else _combination(outputs, new, ids_NK, logits)


def first_logits(
    new: NewTokens, near: list[list[int]], candidates: int, piece_share: float, mean_share: float
) -> tuple[Tensor, Tensor]:
    """Candidate ids [N, K] and first logits [N, K+1] (the mean last), -inf where a row has fewer candidates.

    All pieces of a token are candidates, also where they are more than `candidates`; neighbours fill up the rest.
    """
    chosen: list[dict[int, float]] = []
    for pieces, found in zip(new.pieces, near, strict=True):
        counts = Counter(pieces)
        others = [i for i in found if i not in counts][: max(0, candidates - len(counts))]
        share = piece_share if others else 1 - mean_share
        start = {i: share * count / len(pieces) for i, count in counts.items()}
        start |= {i: (1 - piece_share - mean_share) / len(others) for i in others}
        chosen.append(start)
    width = max(len(start) for start in chosen)
    ids_NK = torch.zeros(len(new), width, dtype=torch.int64)
    logits = torch.full((len(new), width + 1), -torch.inf)
    for n, start in enumerate(chosen):
        ids_NK[n, : len(start)] = torch.tensor(list(start))
        logits[n, : len(start)] = torch.tensor(list(start.values())).log()
        logits[n, -1] = float(np.log(mean_share))
    return ids_NK, logits


def matrix(
    old_VD: Tensor, new: NewTokens, text: Text, ids_NK: Tensor, logits: Tensor, dtype: torch.dtype = torch.float32
) -> Matrix:
    """The matrix with rows that are trained for those new tokens that the text holds."""
    mean_D = mean_row(old_VD, torch.tensor(runs(new.usable))).to(dtype)
    held = torch.from_numpy(text.held)
    return Matrix(old_VD, ConvexRows(old_VD, mean_D, ids_NK[held], logits[held].to(dtype)), text, dtype)


def _combination(trained: Matrix, new: NewTokens, ids_NK: Tensor, logits: Tensor) -> Combination:
    assert isinstance(trained.learned, ConvexRows)
    atoms, held, count = trained.learned.atoms.ids, torch.from_numpy(trained.text.held), ids_NK.shape[1]
    weights = pad(torch.softmax(logits.to(torch.float64), dim=1), (0, len(atoms)))
    weights[held] = trained.learned.weights()
    mean_N = weights[:, count].clone()
    weights = torch.cat([weights[:, :count], weights[:, count + 1 :]], dim=1)
    there = pad(torch.isfinite(logits[:, :-1]), (0, len(atoms)))
    there[held, count:] = True
    for place, atom in enumerate(atoms, count):  # one that is among a row's own candidates adds to it
        own = there[:, :count] & (ids_NK == atom)
        weights[:, :count] += own * weights[:, place, None]
        there[:, place] &= ~own.any(1)
    ids = torch.cat([ids_NK, torch.tensor(atoms, dtype=torch.int64).expand(len(new), -1)], dim=1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)])
    mean_ids = torch.tensor(runs(new.usable), dtype=torch.int64).reshape(-1, 2)
    return Combination(offsets, ids[there], weights[there], mean_N, mean_ids)
