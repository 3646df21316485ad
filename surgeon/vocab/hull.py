"""New rows as convex combinations of old rows: sparse weights, their certificate, and the rows they give.

For weights >= 0 that sum to 1 the logit of a new row lies between the least and the greatest logit of its support for
every hidden state, so the argmax over old and new rows stays on an old one (the hull is exactly the set
of rows that can never win).

Shape suffixes: V old rows, N new rows, D columns, Z stored weights.
Source: Constrained Word2Vec (arXiv 2407.05841), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from surgeon.errors import SurgeonError
from surgeon.ops.kernels.combine import combine_rows
from surgeon.ops.plan import runs

TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Combination:
    """Row n = sum over its slice of weights[z] * old[indices[z]], plus mean_weights[n] * mean of old[mean_ids].

    offsets int64 [N+1], indices int64 [Z], weights float64 [Z]; mean_weights float64 [N] and mean_ids int64 [R, 2]
    (half-open runs of old rows) are both given or both absent.
    """

    offsets: Tensor
    indices: Tensor
    weights: Tensor
    mean_weights: Tensor | None = None
    mean_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[tuple[int, float]]],
        mean_weights: Sequence[float] | None = None,
        mean_ids: Sequence[int] | None = None,
    ) -> Combination:
        """From one list of (old id, weight) a row; the mean ranges over the ascending ids `mean_ids`."""
        lengths = torch.tensor([0, *(len(row) for row in rows)], dtype=torch.int64)
        flat = [pair for row in rows for pair in row]
        means = mean_weights is not None and mean_ids is not None
        return cls(
            lengths.cumsum(0),
            torch.tensor([i for i, _ in flat], dtype=torch.int64),
            torch.tensor([w for _, w in flat], dtype=torch.float64),
            torch.tensor(mean_weights, dtype=torch.float64) if means else None,
            torch.tensor(runs(mean_ids or []), dtype=torch.int64).reshape(-1, 2) if means else None,
        )

    def then(self, other: Combination) -> Combination:
        """The rows of this one followed by those of `other`; a mean must range over the same ids in both."""
        ids = self.mean_ids if self.mean_ids is not None else other.mean_ids
        for one in (self, other):
            if one.mean_ids is not None and (ids is None or not torch.equal(one.mean_ids, ids)):
                raise ValueError("the two combinations take their means over different rows")
        shares = [
            torch.zeros(len(c), dtype=torch.float64) if c.mean_weights is None else c.mean_weights
            for c in (self, other)
        ]
        return Combination(
            torch.cat([self.offsets, other.offsets[1:] + self.offsets[-1]]),
            torch.cat([self.indices, other.indices]),
            torch.cat([self.weights, other.weights]),
            None if ids is None else torch.cat(shares),
            ids,
        )

    def rows(self, old_VD: Tensor) -> Tensor:
        """The rows in float64 [N, D] (or [N] for a bias), by the executor's own kernel: the same bytes."""
        return combine_rows(old_VD, self.offsets, self.indices, self.weights, self.mean_weights, self.mean_ids)

    def sums(self) -> Tensor:
        """The sum of each row's weights, float64 [N], exact to the last rounding (math.fsum)."""
        shares = [0.0] * len(self) if self.mean_weights is None else self.mean_weights.tolist()
        weights, offsets = self.weights.tolist(), self.offsets.tolist()
        spans = pairwise(offsets)
        return torch.tensor(
            [math.fsum([*weights[a:b], share]) for (a, b), share in zip(spans, shares, strict=True)],
            dtype=torch.float64,
        )

    def check(self, num_old: int, where: str) -> None:
        """Refuse weights that are negative, not finite or do not sum to 1 within 1e-12, and ids that are not old."""
        shares = torch.zeros(0) if self.mean_weights is None else self.mean_weights
        for values in (self.weights, shares):
            if not bool((torch.isfinite(values) & (values >= 0)).all()):
                raise _broken("a weight is negative or not finite", where)
        if len(self.indices) and (int(self.indices.min()) < 0 or int(self.indices.max()) >= num_old):
            raise _broken(f"a weight stands on a row outside of the {num_old} old ones", where)
        if self.mean_ids is not None and int(self.mean_ids.max()) > num_old:
            raise _broken(f"the mean ranges over rows outside of the {num_old} old ones", where)
        off = (self.sums() - 1).abs()
        if len(self) and float(off.max()) > TOLERANCE:
            row, error = int(off.argmax()), float(off.max())
            raise _broken(f"the weights of new row {row} sum to 1 only within {error:.1e}", where)

    def tables(self, matrix: str) -> dict[str, Tensor]:
        """The tensors of the attachment, as the kernel `combine` reads them."""
        found = {"offsets": self.offsets, "indices": self.indices, "weights": self.weights}
        if self.mean_weights is not None and self.mean_ids is not None:
            found |= {"mean_weights": self.mean_weights, "mean_ids": self.mean_ids}
        return {f"{matrix}.{name}": tensor.contiguous() for name, tensor in found.items()}

    @classmethod
    def from_tables(cls, table: Mapping[str, Tensor], matrix: str) -> Combination:
        """The inverse of `tables`."""
        return cls(
            table[f"{matrix}.offsets"],
            table[f"{matrix}.indices"],
            table[f"{matrix}.weights"],
            table.get(f"{matrix}.mean_weights"),
            table.get(f"{matrix}.mean_ids"),
        )


def _broken(problem: str, where: str) -> SurgeonError:
    return SurgeonError(problem, where, "an init that claims the hull must give weights >= 0 that sum to 1")
