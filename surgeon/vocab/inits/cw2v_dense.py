"""Constrained Word2Vec as it was released: factors of a weight on every old row for every new one. For small sizes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.progress import Progress
from surgeon.vocab.dense_rows import DenseRows
from surgeon.vocab.hull import Combination
from surgeon.vocab.skipgram import Matrix, Objective, shared_negatives, summed_negatives, train
from surgeon.vocab.skipgram_text import Text
from surgeon.vocab.threads import spread
from surgeon.vocab.tokens import NewTokens

HULL = True
BATCH_INDEPENDENT = False  # all new tokens are trained together
READS_TEXT = True
PAIRED = True

LIMIT = 2_000_000_000  # bytes of the weights of one matrix, each with its id
_ENTRY = 16


def cw2v_dense(
    new: NewTokens,
    input_VD: Tensor,
    output_VD: Tensor,
    pair_seed: int,
    progress: Progress,
    *,
    rank: int = 1024,
    objective: Literal["released", "mended"] = "released",
    window: int = 5,
    negatives: int = 5,
    batch: int = 4096,
    epochs: int = 5,
    lr: float = 3e-4,
    subsample: float = 1e-3,
    max_tokens: int = 1_000_000,
) -> tuple[Combination, Combination]:
    """Weights softmax(A1 A2) of each new row over all usable old rows, A1 [new, rank] and A2 [rank, old] from U(0, 1).

    Gives the input and the output rows, trained together in float32, each with factors of its own (one set, twice,
    when tied). `objective` "released" is the loss of the released code, whose sum over the negatives of a pair stands
    inside of log sigma; "mended" is that of `cw2v`, with 64 negatives shared by a batch. The rest is as in `cw2v` for
    both (subsampling on relative frequencies, runs of the text shuffled, pairs of two old tokens left out), and only
    the rows of a batch are computed. A2 is shared: a token that the text does not hold moves with the others. Refused
    where the weights of one matrix, 16 bytes each with their ids, exceed 2 GB.
    Source: Constrained Word2Vec, arXiv 2407.05841, and its released code.
    """
    if min(rank, window, negatives, batch, max_tokens) < 1 or epochs < 0:
        raise UsageError("counts must be at least 1", "--option", "see `surgeon methods init`")
    if not (lr > 0 and subsample > 0):
        raise UsageError("lr and subsample must be above zero", "--option", "try 3e-4 and 1e-3")
    if len(new) * len(new.usable) * _ENTRY > LIMIT:
        raise UsageError(
            f"{len(new):,} x {len(new.usable):,} weights take {len(new) * len(new.usable) * _ENTRY / 1e9:.0f} GB",
            "--init cw2v_dense",
            "use --init cw2v, which holds a few weights a token",
        )
    text = Text.read(new, "cw2v_dense", max_tokens, len(input_VD))
    rng = np.random.Generator(np.random.Philox(pair_seed))
    inputs = dense_matrix(input_VD, new, text, rank, rng)
    outputs = inputs if output_VD is input_VD else dense_matrix(output_VD, new, text, rank, rng)
    loss = Objective(summed_negatives, negatives, None)
    if objective == "mended":
        loss = Objective(shared_negatives, negatives)
    train(
        inputs, outputs, rng, loss,
        window=window, batch=batch, epochs=epochs, lr=lr, threshold=subsample, progress=progress,
    )  # fmt: skip
    given_input = _combination(inputs, new)
    return given_input, given_input if outputs is inputs else _combination(outputs, new)


def dense_matrix(
    old_VD: Tensor, new: NewTokens, text: Text, rank: int, rng: np.random.Generator, dtype: torch.dtype = torch.float32
) -> Matrix:
    """The matrix with new factors drawn from U(0, 1), A1 first."""
    a1, a2 = (torch.from_numpy(rng.random(shape)).to(dtype) for shape in ((len(new), rank), (rank, len(new.usable))))
    old_UD = old_VD[torch.tensor(new.usable)].to(dtype)
    return Matrix(old_VD, DenseRows(old_UD, a1, a2, torch.from_numpy(text.held)), text, dtype)


def _combination(trained: Matrix, new: NewTokens) -> Combination:
    assert isinstance(trained.learned, DenseRows)
    learned, count = trained.learned, len(new.usable)
    with spread() as run:
        pieces = torch.arange(len(new)).split(256)
        logits = torch.cat(run(lambda places: learned.a1[places] @ learned.a2, pieces))
        weights = torch.cat(run(lambda rows: torch.softmax(rows.to(torch.float64), dim=1), logits.split(256)))
    offsets = torch.arange(len(new) + 1, dtype=torch.int64) * count
    return Combination(offsets, torch.tensor(new.usable).repeat(len(new)), weights.flatten())
