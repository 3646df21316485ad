"""float64 to stored bytes with one rounding, in numpy; gives the bits of surgeon.checkpoint.rounding.round_once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.checkpoint.decode import RAW

_ONE, _SIXTEEN = np.uint32(1), np.uint32(16)
_BELOW_HALF, _MIDDLE = np.uint32(0x7FFF), np.uint32(0x80000000)


class Encoder:
    """Rounds pieces of up to `size` elements to the stored type `dtype` (a safetensors code), in buffers of its own.

    To bfloat16 by way of float32, which would round twice: the two differ only where the float32 lands in the middle
    between two bfloat16 values (its lower half is 0x8000) and is not what it was rounded from: the float64 says which
    side it is on. A middle that is exact is a tie, which goes to even; weights such as 0.5 and 0.7 give many of them.
    """

    def __init__(self, size: int, dtype: str, scratch: NDArray[np.float64] | None = None) -> None:
        """scratch: [size], overwritten: what is used for something else too stays in the cache."""
        self.dtype = dtype
        self.raw: NDArray[Any] = np.empty(size, RAW[dtype])
        self._single = np.empty(size, np.float32)
        self._bits = np.empty(size, np.uint32)
        self._back = np.empty(size) if scratch is None else scratch
        self._is_middle, self._is_inexact = np.empty(size, np.bool_), np.empty(size, np.bool_)

    def encode(self, values: NDArray[np.float64], raw: NDArray[Any] | None = None) -> NDArray[Any]:
        """The stored elements (bfloat16 as uint16), in `raw` or else in a view that the next call overwrites."""
        n = len(values)
        raw = self.raw[:n] if raw is None else raw
        if self.dtype != "BF16":
            np.copyto(raw, values, casting="same_kind")  # what does not fit becomes infinite; who calls refuses it
            return raw
        single, bits = self._single[:n], self._bits[:n]
        np.copyto(single, values, casting="same_kind")
        to_even(single, bits, raw)
        np.left_shift(single.view(np.uint32), _SIXTEEN, out=bits)
        middle = np.equal(bits, _MIDDLE, out=self._is_middle[:n])
        np.copyto(self._back[:n], single)
        inexact = np.not_equal(self._back[:n], values, out=self._is_inexact[:n])
        at = np.flatnonzero(np.logical_and(middle, inexact, out=middle))
        if len(at):
            raw[at] = _middle_to_bfloat16(values[at], single[at])
        return raw

    def is_finite(self, raw: NDArray[Any]) -> bool:
        """Whether stored elements are."""
        if self.dtype != "BF16":
            return bool(np.isfinite(raw).all())
        # as integers the infinities are the first of what is no number: 0x7f80 and, below zero, 0xff80
        return int(raw.view(np.int16).max()) < 0x7F80 and int(raw.max()) < 0xFF80

    def stored(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Stored elements as float32 (float64 for F64); a view that the next call overwrites, or the elements."""
        if self.dtype in ("F32", "F64"):
            return raw
        if self.dtype == "F16":
            np.copyto(self._single[: len(raw)], raw)
            return self._single[: len(raw)]
        bits = self._bits[: len(raw)]
        np.copyto(bits, raw)
        np.left_shift(bits, _SIXTEEN, out=bits)
        return bits.view(np.float32)


def to_even(single: NDArray[np.float32], bits: NDArray[np.uint32], raw: NDArray[np.uint16]) -> None:
    """float32 [n] to bfloat16 in `raw`, to nearest, ties to even; no numbers become something else. bits: scratch."""
    held = single.view(np.uint32)
    np.right_shift(held, _SIXTEEN, out=bits)
    np.bitwise_and(bits, _ONE, out=bits)
    np.add(bits, _BELOW_HALF, out=bits)
    np.add(bits, held, out=bits)
    np.right_shift(bits, _SIXTEEN, out=raw, casting="unsafe", dtype=np.uint32)


def _middle_to_bfloat16(values: NDArray[np.float64], single: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Of elements whose float32 lies in the middle and whose float64 does not: towards the float64."""
    up = np.abs(values) > np.abs(single.astype(np.float64))
    return ((single.view(np.uint32) >> _SIXTEEN) + up).astype(np.uint16)
