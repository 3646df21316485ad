"""Convex weights over a few old rows, fitted by the language model's own loss on the target text.

Shape suffixes: V old rows, N new rows, K candidates of a new row, D columns, R rows of text, S tokens of a row.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from surgeon.errors import UsageError
from surgeon.loading import context_length
from surgeon.progress import Progress
from surgeon.vocab.body import Body
from surgeon.vocab.extended import extended
from surgeon.vocab.hull import Combination
from surgeon.vocab.neighbours import neighbours
from surgeon.vocab.next_token import backward, next_token
from surgeon.vocab.part_gradients import draws, gradients
from surgeon.vocab.simplex import Simplex
from surgeon.vocab.tokens import NewTokens
from surgeon.vocab.windows import packed_rows, start_ids

HULL = True
BATCH_INDEPENDENT = False  # all new tokens are trained together
READS_TEXT = True
PAIRED = True
_WINDOW, _DIMENSIONS = 5, 64  # of the space in which neighbours are near, as in cw2v
_REPORTS = 10


def simplex_lm(
    new: NewTokens,
    body: Body,
    tied: bool,
    pair_seed: int,
    progress: Progress,
    *,
    steps: int = 100,
    lr: float = 0.2,
    tokens_per_step: int = 2048,
    seq_len: int = 256,
    candidates: int = 32,
    piece_share: float = 0.8,
    mean_share: float = 0.1,
    max_tokens: int = 1_000_000,
) -> tuple[Combination, Combination]:
    """Weights of each new row over its old pieces, its nearest old tokens by company (PPMI-SVD) and the mean row.

    Both matrices are fitted together (one set of weights where they are tied) by Adam on the logits of a softmax,
    on the next-token loss of the target text in new tokens, in float32; body and old rows are frozen. A step
    reads `tokens_per_step` tokens in rows of `seq_len` (the model's context, where that is shorter). The weights, in
    float64, start with `piece_share` on the pieces, `mean_share` on the mean and the rest on up to `candidates` tokens
    in all; candidates=0 leaves pieces and
    mean alone. Against the paper: few candidates and not all old rows, and the weights are convex, so that old text is
    continued as before; `mean_share` is where the margin starts, fitting may use it up.
    Source: Vocabulary adaptation with frozen body, VocADT, arXiv 2410.09644, section 3, constrained to the hull of
    arXiv 2407.05841.
    """
    _check(steps, lr, tokens_per_step, seq_len, candidates, piece_share, mean_share, max_tokens)
    seq_len = min(seq_len, context_length(body.model) or seq_len)
    rows_RS = packed_rows(new, start_ids(body.path), seq_len, max_tokens, "simplex_lm")
    start = _start(new, _near(rows_RS, new, candidates), candidates, piece_share, mean_share)
    rng = np.random.Generator(np.random.Philox(pair_seed))
    with extended(body.model, new.ids, str(body.path)) as model, gradients(model.device) as gradient_of:
        first = Simplex(start, new.usable, model.old_input, model.old_bias if tied else None)
        last = first if tied else Simplex(start, new.usable, model.old_output, model.old_bias)
        adam = torch.optim.Adam([first.logits] if tied else [first.logits, last.logits], lr=lr)
        history: list[float] = []
        with progress.task("fitting convex weights", steps, "steps") as advance:
            for picked in draws(len(rows_RS), max(1, tokens_per_step // seq_len), steps, rng):
                made = [first.rows()] if tied else [first.rows(), last.rows()]
                bias = last.biases()
                made += [] if bias is None else [bias]
                leaves = [tensor.detach().requires_grad_() for tensor in made]
                model.set(leaves[0], leaves[0 if tied else 1], None if bias is None else leaves[-1])
                loss, grads = next_token(model, gradient_of, rows_RS[picked], leaves)
                adam.zero_grad(set_to_none=True)
                backward(made, grads)
                adam.step()
                history.append(loss)
                advance(1)
    _say(history, progress)
    given = first.combination()
    return given, given if tied else last.combination()


def _say(history: list[float], progress: Progress) -> None:
    """The mean loss of each tenth of the steps."""
    tenths = [part for part in np.array_split(np.asarray(history), _REPORTS) if len(part)]
    if tenths:
        progress.say("loss of the target text, nats a token: " + " ".join(f"{part.mean():.3f}" for part in tenths))


def _near(rows_RS: np.ndarray, new: NewTokens, candidates: int) -> list[list[int]]:
    if candidates == 0:
        return [[] for _ in new.ids]
    numbers = np.repeat(np.arange(len(rows_RS)), rows_RS.shape[1])
    return neighbours(
        rows_RS.ravel(), numbers, new.ids, new.usable, window=_WINDOW, num=candidates, dimensions=_DIMENSIONS
    )


def _start(
    new: NewTokens, near: list[list[int]], candidates: int, piece_share: float, mean_share: float
) -> list[dict[int, float]]:
    """Of each new token old id -> weight; what they lack of 1 stands on the mean."""
    chosen: list[dict[int, float]] = []
    for pieces, found in zip(new.pieces, near, strict=True):
        counts = Counter(pieces)
        others = [i for i in found if i not in counts][: max(0, candidates - len(counts))]
        share = piece_share if others else 1 - mean_share
        start = {i: share * count / len(pieces) for i, count in counts.items()}
        chosen.append(start | {i: (1 - piece_share - mean_share) / len(others) for i in others})
    return chosen


def _check(
    steps: int, lr: float, tokens_per_step: int, seq_len: int, candidates: int, piece_share: float, mean_share: float,
    max_tokens: int,
) -> None:  # fmt: skip
    if not (piece_share > 0 and mean_share > 0 and piece_share + mean_share < 1):
        raise UsageError("the shares must be above zero and sum to less than 1", "--option piece_share", "0.8 and 0.1")
    if steps < 0 or candidates < 0 or min(tokens_per_step, max_tokens) < 1 or seq_len < 2 or not lr > 0:
        raise UsageError("a count or the learning rate is too small", "--option", "see `surgeon methods init`")
