"""Rows as weighted sums of the rows of one matrix, in an order of additions that no machine changes.

Shape suffixes: V rows of the input, N rows of the output, D columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ROWWISE = False
COMPUTE = "stored"  # only the rows that are named are widened to float64
_CHUNK = 1024


def combine(inputs: list[Tensor], table: Mapping[str, Tensor], shape: tuple[int, ...], *, matrix: str) -> Tensor:
    """out_n = sum_k w_nk * E[idx_nk] + m_n * mean(E[ids]), float64, from the tables named after `matrix`.

    inputs: [E_VD (or E_V for a bias) in its stored dtype]. table: `{matrix}.offsets` int64 [N+1],
    `{matrix}.indices` int64, `{matrix}.weights` float64, and, where some rows hold a share of the mean,
    `{matrix}.mean_weights` float64 [N] with `{matrix}.mean_ids` int64 runs [R, 2]. `shape` must be [N, D].
    """
    rows = combine_rows(
        inputs[0],
        table[f"{matrix}.offsets"],
        table[f"{matrix}.indices"],
        table[f"{matrix}.weights"],
        table.get(f"{matrix}.mean_weights"),
        table.get(f"{matrix}.mean_ids"),
    )
    if tuple(rows.shape) != tuple(shape):
        raise ValueError(f"{matrix}: the table gives {tuple(rows.shape)}, the plan says {tuple(shape)}")
    return rows


def combine_rows(
    old_VD: Tensor,
    offsets: Tensor,
    indices: Tensor,
    weights: Tensor,
    mean_weights: Tensor | None = None,
    mean_ids: Tensor | None = None,
) -> Tensor:
    """The weighted sums in float64: term after term in the order stored, the share of the mean last.

    Each step is elementwise (one product, one sum, never fused), so threads and vector widths change nothing.
    """
    num = len(offsets) - 1
    out_ND = torch.zeros((num, *old_VD.shape[1:]), dtype=torch.float64)
    lengths = offsets[1:] - offsets[:-1]
    for start in range(0, num, _CHUNK):
        stop = min(start + _CHUNK, num)
        for term in range(int(lengths[start:stop].max()) if stop > start else 0):
            here = torch.nonzero(lengths[start:stop] > term).flatten() + start
            at = offsets[here] + term
            product = old_VD[indices[at]].to(torch.float64)
            product *= _column(weights[at], product)
            out_ND[here] += product
    if mean_weights is not None and mean_ids is not None:
        share = _column(mean_weights, out_ND) * mean_row(old_VD, mean_ids)
        out_ND += share
    return out_ND


def mean_row(old_VD: Tensor, runs: Tensor) -> Tensor:
    """The float64 mean of the rows in the half-open `runs` [R, 2]: a balanced tree in chunks, chunks in order."""
    total = torch.zeros(old_VD.shape[1:], dtype=torch.float64)
    count = 0
    for start, stop in runs.tolist():
        for low in range(start, stop, _CHUNK):
            rows = old_VD[low : min(low + _CHUNK, stop)].to(torch.float64)
            count += len(rows)
            total = total + _tree_sum(rows)
    return total / count


def _tree_sum(rows: Tensor) -> Tensor:
    while len(rows) > 1:
        half = (len(rows) + 1) // 2
        top = rows[:half].clone()
        top[: len(rows) - half] += rows[half:]
        rows = top
    return rows[0]


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *([1] * (like.ndim - 1)))
