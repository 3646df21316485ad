"""float64 to stored bytes with one rounding, in numpy; gives the bits of surgeon.checkpoint.rounding.round_once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_HALF, _MIDDLE = np.uint32(0x8000), np.uint32(0x80000000)
_SIXTEEN = np.uint32(16)
_FEW = 64


class Encoder:
    """Rounds pieces of up to `size` elements to the stored type `dtype` (a safetensors code), in buffers of its own.

    To bfloat16 by way of float32, which would round twice: the two differ only where the float32 lands in the middle
    between two bfloat16 values (its lower half is 0x8000), and there the float64 says which side it is on.
    """

    def __init__(self, size: int, dtype: str) -> None:
        self.dtype = dtype
        plain = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
        self.raw: NDArray[Any] = np.empty(size, plain[dtype])
        self._single = np.empty(size, np.float32)
        self._bits = np.empty(size, np.uint32)
        self._is_middle = np.empty(size, np.bool_)
        self._stored = np.empty(size, np.float32)

    def encode(self, values: NDArray[np.float64]) -> NDArray[Any]:
        """The stored elements (bfloat16 as uint16), a view that the next call overwrites."""
        n = len(values)
        raw = self.raw[:n]
        if self.dtype != "BF16":
            np.copyto(raw, values, casting="same_kind")  # what does not fit becomes infinite; who calls refuses it
            return raw
        single, bits, middle = self._single[:n], self._bits[:n], self._is_middle[:n]
        np.copyto(single, values, casting="same_kind")
        np.left_shift(single.view(np.uint32), _SIXTEEN, out=bits)
        np.equal(bits, _MIDDLE, out=middle)
        np.add(single.view(np.uint32), _HALF, out=bits)  # half a unit up in magnitude: nearest, but for the middle
        np.right_shift(bits, _SIXTEEN, out=raw, casting="unsafe", dtype=np.uint32)
        if middle.any():
            at = few_true(middle)
            raw[at] = _middle_to_bfloat16(values[at], single[at])
        return raw

    def single(self, n: int) -> NDArray[np.float32]:
        """What was encoded last, in float32 at most; a view that the next call overwrites."""
        return self._single[:n] if self.dtype == "BF16" else self.stored(n)

    def stored(self, n: int) -> NDArray[Any]:
        """What was encoded last, as float32 (float64 for F64); a view that the next call overwrites."""
        raw = self.raw[:n]
        if self.dtype in ("F32", "F64"):
            return raw
        if self.dtype == "F16":
            np.copyto(self._stored[:n], raw)
            return self._stored[:n]
        bits = self._bits[:n]
        np.copyto(bits, raw)
        np.left_shift(bits, _SIXTEEN, out=bits)
        return bits.view(np.float32)


def _middle_to_bfloat16(values: NDArray[np.float64], single: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Of elements whose float32 lies in the middle: towards the float64, and to even where it lies there itself."""
    bits = single.view(np.uint32)
    magnitude, exact = np.abs(single.astype(np.float64)), np.abs(values)
    up = (exact > magnitude) | ((exact == magnitude) & (bits & np.uint32(0x10000) != 0))
    return ((bits >> _SIXTEEN) + up).astype(np.uint16)


def few_true(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Where a mask is true: for masks that hardly ever are, which a search for a byte goes through the fastest."""
    if int(np.count_nonzero(mask)) > _FEW:
        return np.flatnonzero(mask)
    raw = mask.tobytes()
    found = [raw.find(b"\1")]
    while found[-1] >= 0:
        found.append(raw.find(b"\1", found[-1] + 1))
    return np.array(found[:-1], np.intp)
