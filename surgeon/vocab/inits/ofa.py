"""A mean of the nearest old tokens' coordinates in a factorised embedding: OFA."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.progress import Progress
from surgeon.vocab.static_vectors import Missing, mixed, nearest, token_vectors
from surgeon.vocab.threads import spread
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens

HULL = False  # in the hull of the old rows' approximations of lower rank
BATCH_INDEPENDENT = False  # the last bits of a matrix product depend on its size
_CHUNK = 8192


def ofa(
    new: NewTokens,
    embed_VD: Tensor,
    old_file: TokenizerFile,
    progress: Progress,
    *,
    rank: int | None = None,
    neighbours: int = 10,
    temperature: float = 0.1,
    vectors: Path | None = None,
    missing: Missing = "subword_mean",
    min_count: int = 10,
    window: int = 5,
    dimensions: int = 300,
    max_tokens: int = 1_000_000,
) -> Tensor:
    """With E = F P of `rank` by SVD: softmax(cos / temperature) over the nearest old tokens, times F, times P.

    rank: None is half of the matrix's width (the paper has 100, 200 and 400 of 768, the greatest best); the whole
    width gives the same means of the rows themselves. vectors, missing, min_count, window, dimensions, max_tokens: the
    static vectors, as in `focus`. Against the paper: they are of tokens and from the target text where no file is
    given, its are of words in many languages (ColexNet+); the factors are of the usable rows; rows of old tokens stay
    as they are and do not become F P; a token without a vector starts from the mean of its pieces instead of a draw
    from N(mean, sd). Float64; --project hull can follow.
    Source: Liu et al. 2023, OFA, arXiv 2311.08849, section 3.
    """
    width = embed_VD.shape[1]
    rank = max(1, width // 2) if rank is None else rank
    if not 1 <= rank <= width:
        raise UsageError(f"rank={rank} is not between 1 and the width {width}", "--option rank", "leave it out")
    weigh = nearest(neighbours, temperature)
    space = token_vectors(
        "ofa", new, old_file, vectors,
        min_count=min_count, window=window, dimensions=dimensions, max_tokens=max_tokens,
    )  # fmt: skip
    rows_ND = mixed("ofa", new, space, space, weigh, missing, progress).rows(embed_VD)
    with spread():  # one thread: the same bytes for any number
        basis_DR = _primitives(embed_VD, new.usable, rank)
        return rows_ND @ basis_DR @ basis_DR.T


def _primitives(embed_VD: Tensor, usable: tuple[int, ...], rank: int) -> Tensor:
    """The first `rank` right singular vectors [D, R] of the usable rows: F P = E (basis @ basis.T).

    From the eigenvectors of E'E, summed over chunks, which needs no float64 copy of E.
    """
    ids = torch.tensor(usable)
    gram_DD = torch.zeros(embed_VD.shape[1], embed_VD.shape[1], dtype=torch.float64)
    for start in range(0, len(ids), _CHUNK):
        rows = embed_VD[ids[start : start + _CHUNK]].to(torch.float64)
        gram_DD += rows.T @ rows
    return torch.linalg.eigh(gram_DD).eigenvectors[:, -rank:]
