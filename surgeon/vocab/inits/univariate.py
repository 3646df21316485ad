"""Rows drawn from normal distributions with the mean and a share of the variance of the old rows, column by column."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.vocab.tokens import NewTokens

HULL = False
BATCH_INDEPENDENT = True


def univariate(new: NewTokens, embed_VD: Tensor, seed: int, *, scale: float = 1.0) -> Tensor:
    """N(mu_d, scale * sd_d^2) in each column d, independently, float64; mu and sd (n - 1) of the usable old rows.

    Source: the univariate baseline of Constrained Word2Vec, arXiv 2407.05841 (scale 1).
    """
    if not scale >= 0:
        raise UsageError(f"scale must not be negative, got {scale}", "--option scale", "for example 1, or 1e-5")
    old_UD = embed_VD[torch.tensor(new.usable)].to(torch.float64)
    mu_D = old_UD.mean(0)
    sd_D = ((old_UD - mu_D).square().sum(0) / max(len(old_UD) - 1, 1)).sqrt()
    draws = [np.random.Generator(np.random.Philox(s)).standard_normal(len(mu_D)) for s in new.seeds(seed)]
    return mu_D + torch.from_numpy(np.stack(draws)) * sd_D * scale**0.5
