"""Rows drawn from a normal distribution with the mean and a share of the covariance of the old rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import UsageError
from surgeon.vocab.moments import column_means, float64_chunks
from surgeon.vocab.threads import spread
from surgeon.vocab.tokens import NewTokens

HULL = False
BATCH_INDEPENDENT = False  # each token has its own stream, but the last bits of a matrix product depend on its size


def gaussian(new: NewTokens, embed_VD: Tensor, seed: int, *, scale: float = 1e-5) -> Tensor:
    """N(mu, scale * Sigma), float64, mu and Sigma of the usable old rows; scale=1 is Hewitt's distribution.

    The factor of Sigma is R of the centred matrix's QR decomposition (Sigma = R'R / (n - 1)), which needs no positive
    definite Sigma and so no repair of one. It is made from chunks of rows, so there is no float64 copy of the matrix.
    Source: Hewitt 2021; scale 1e-5 as in the multivariate baseline of arXiv 2407.05841.
    """
    if not scale >= 0:
        raise UsageError(f"scale must not be negative, got {scale}", "--option scale", "for example 1e-5, or 1")
    with spread():  # one thread: the same bytes for any number, which neither the QR nor the product gives
        mu_D = column_means(embed_VD, new.usable)
        factor_RD = torch.empty(0, len(mu_D), dtype=torch.float64)
        for old_CD in float64_chunks(embed_VD, new.usable):
            _, factor_RD = torch.linalg.qr(torch.cat([factor_RD, old_CD - mu_D]), mode="r")
        width = len(factor_RD)
        draws = [np.random.Generator(np.random.Philox(s)).standard_normal(width) for s in new.seeds(seed)]
        noise_NR = torch.from_numpy(np.stack(draws))
        return mu_D + noise_NR @ factor_RD * (scale / max(len(new.usable) - 1, 1)) ** 0.5
