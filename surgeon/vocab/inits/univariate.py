"""Rows drawn from normal distributions with the mean and a share of the variance of the old rows, column by column."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.vocab.moments import column_means, float64_chunks
from surgeon.vocab.tokens import NewTokens

HULL = False
BATCH_INDEPENDENT = True


def univariate(new: NewTokens, embed_VD: Tensor, seed: int, *, scale: float = 1.0) -> Tensor:
    """N(mu_d, scale * sd_d^2) in each column d, independently, float64; mu and sd (n - 1) of the usable old rows.

    Source: the univariate baseline of Constrained Word2Vec, arXiv 2407.05841 (scale 1).
    """
    if not scale >= 0:
        raise UsageError(f"scale must not be negative, got {scale}", "--option scale", "for example 1, or 1e-5")
    mu_D = column_means(embed_VD, new.usable)
    squares_D = torch.zeros_like(mu_D)
    for old_CD in float64_chunks(embed_VD, new.usable):
        squares_D += (old_CD - mu_D).square().sum(0)
    sd_D = (squares_D / max(len(new.usable) - 1, 1)).sqrt()
    draws = [np.random.Generator(np.random.Philox(s)).standard_normal(len(mu_D)) for s in new.seeds(seed)]
    return mu_D + torch.from_numpy(np.stack(draws)) * sd_D * scale**0.5
