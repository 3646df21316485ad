"""Constrained Word2Vec: convex weights over a few old rows, trained by skip-gram on the target text."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import SurgeonError, UsageError
from surgeon.vocab.hull import Combination
from surgeon.vocab.neighbours import neighbours
from surgeon.vocab.skipgram import Rows, train
from surgeon.vocab.tokens import NewTokens

HULL = True
BATCH_INDEPENDENT = False  # all new tokens are trained together
READS_TEXT = True


def cw2v(
    new: NewTokens,
    input_VD: Tensor,
    output_VD: Tensor,
    role: str,
    pair_seed: int,
    *,
    candidates: int = 32,
    piece_share: float = 0.8,
    mean_share: float = 0.1,
    window: int = 5,
    negatives: int = 5,
    shared_negatives: int = 64,
    batch: int = 1024,
    epochs: int = 1,
    lr: float = 0.01,
    subsample: float = 1e-3,
    dimensions: int = 64,
    max_tokens: int = 1_000_000,
) -> Combination:
    """Weights of each new row over its old pieces, its nearest old tokens by company (PPMI-SVD) and the mean row.

    Both matrices are trained together (input rows as centres, output rows as contexts; one set when tied), in
    float32, from one stream of random numbers; the weights are those of `role`, in float64. They start with
    `piece_share` on the pieces, `mean_share` on the mean and the rest on the neighbours, and stay there for a token
    that the first `max_tokens` of the text do not hold. Against the released code: the sum over negatives stands
    outside of log sigma, subsampling is on relative frequencies, positions are shuffled, negatives are drawn with
    replacement, and no |new| x |old| matrix is made.
    Source: Constrained Word2Vec, arXiv 2407.05841.
    """
    if not (piece_share > 0 and mean_share > 0 and piece_share + mean_share < 1):
        raise UsageError("the shares must be above zero and sum to less than 1", "--option piece_share", "0.8 and 0.1")
    if min(candidates, window, negatives, shared_negatives, batch, max_tokens) < 1 or epochs < 0:
        raise UsageError("counts must be at least 1", "--option", "see `surgeon methods init`")
    tokens, documents = _text(new, max_tokens)
    near = neighbours(tokens, documents, new.ids, new.usable, window=window, num=candidates, dimensions=dimensions)
    ids_NK, logits = _start(new, near, candidates, piece_share, mean_share)
    inputs = _rows(input_VD, new, ids_NK, logits)
    outputs = inputs if output_VD is input_VD else _rows(output_VD, new, ids_NK, logits)
    rng = np.random.Generator(np.random.Philox(pair_seed))
    train(
        inputs,
        outputs,
        tokens,
        documents,
        rng,
        window=window,
        negatives=negatives,
        shared=shared_negatives,
        batch=batch,
        epochs=epochs,
        lr=lr,
        threshold=subsample,
    )
    weights = (inputs if role == "input" else outputs).weights()
    present = torch.isfinite(logits)
    rows = [
        [(int(i), float(w)) for i, w, here in zip(ids, row[:-1], held, strict=False) if here]
        for ids, row, held in zip(ids_NK.tolist(), weights.tolist(), present.tolist(), strict=True)
    ]
    return Combination.of(rows, weights[:, -1].tolist(), new.usable)


def _text(new: NewTokens, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    ids: list[int] = []
    numbers: list[int] = []
    for number, sequence in enumerate(new.text("cw2v")):
        ids += sequence
        numbers += [number] * len(sequence)
        if len(ids) >= max_tokens:
            break
    tokens = np.asarray(ids[:max_tokens], dtype=np.int64)
    if len(tokens) == 0 or int(tokens.max()) < new.ids[0]:
        raise SurgeonError("the target text holds none of the new tokens", "--corpus", "give text that uses them")
    return tokens, np.asarray(numbers[:max_tokens], dtype=np.int64)


def _start(
    new: NewTokens, near: list[list[int]], candidates: int, piece_share: float, mean_share: float
) -> tuple[Tensor, Tensor]:
    """Candidate ids [N, K] and first logits [N, K+1] (the mean last), -inf where a row has fewer candidates."""
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


def _rows(matrix_VD: Tensor, new: NewTokens, ids_NK: Tensor, logits: Tensor) -> Rows:
    old_VD = matrix_VD.to(torch.float32)
    mean_D = old_VD[torch.tensor(new.usable)].mean(0)
    return Rows(old_VD, mean_D, ids_NK, logits.clone().requires_grad_(), new.ids[0])
