"""Sums over the old rows in float64 without a float64 copy of the matrix.

Shape suffixes: V old rows, C rows of a chunk, D columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_ROWS = 8192


def float64_chunks(embed_VD: Tensor, usable: Sequence[int]) -> Iterator[Tensor]:
    """The usable rows in order, float64 [C, D], C at least twice D, so that a square matrix can be made anew beside
    each chunk at half as much work more."""
    ids = torch.tensor(usable)
    for part in ids.split(max(_ROWS, 2 * embed_VD.shape[1])):
        yield embed_VD[part].to(torch.float64)


def column_means(embed_VD: Tensor, usable: Sequence[int]) -> Tensor:
    """float64 [D]: the mean of the usable rows."""
    total_D = torch.zeros(embed_VD.shape[1], dtype=torch.float64)
    for old_CD in float64_chunks(embed_VD, usable):
        total_D += old_CD.sum(0)
    return total_D / len(usable)
