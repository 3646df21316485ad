"""A weighted sum in float64: what defines its bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from surgeon.ops.sum_program import Segment

Array = NDArray[np.float64]
Wide = Callable[[int, Array], Array]


class ExactSum:
    """Sums of up to `size` elements, in buffers of its own. has_base: the terms are deltas of a base, also where the
    base is zero. scratch: [size], free between calls."""

    def __init__(self, size: int, has_base: bool) -> None:
        self._has_base = has_base
        self._total, self._base, self._first, self.scratch = (np.empty(size) for _ in range(4))
        self._is_zero = np.empty(size, np.bool_)

    def total(self, segment: Segment, wide: Wide, count: int) -> Array:
        """float64 [count]: base + the terms, a product and then a sum each, in order; a view that the next call
        overwrites. wide: gives the values of a leaf, in the buffer that it is given."""
        total, product = self._total[:count], self.scratch[:count]
        base = so_far = None if segment.base is None else wide(segment.base, self._base[:count])
        for term in segment.terms:
            if term.values is None:
                continue
            values = wide(term.values, product)
            if term.first is not None:
                first = base if term.first == segment.base else wide(term.first, self._first[:count])
                assert first is not None
                values = np.subtract(values, first, out=product)
            if term.weight != 1:
                values = np.multiply(values, term.weight, out=product)
            if so_far is not None or self._has_base:
                np.add(0.0 if so_far is None else so_far, values, out=total)
            else:
                np.copyto(total, values)
            so_far = total
        if so_far is None:
            total.fill(0.0)
        elif so_far is not total:
            np.copyto(total, so_far)
        elif base is not None:
            self._keep_signs_of_zero(total, base)
        return total

    def change(self, segment: Segment, total: Array) -> Array:
        """The last total less its base; overwrites it."""
        return total if segment.base is None else np.subtract(total, self._base[: len(total)], out=total)

    def _keep_signs_of_zero(self, total: Array, base: Array) -> None:
        """-0 + 0 is +0: where nothing changes, the base's zero stays what it was."""
        zero = np.equal(total, 0, out=self._is_zero[: len(total)])
        if zero.any():
            at = np.flatnonzero(zero)
            same = at[base[at] == 0]
            total[same] = base[same]
