"""Stored floating-point values as numpy arrays, without torch."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.checkpoint.header import StoredTensor
from surgeon.errors import SurgeonError

RAW: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_SIXTEEN = np.uint32(16)


class Decoder:
    """Reads up to `size` elements of a tensor at a time, by way of buffers of its own that stay in the cache."""

    def __init__(self, size: int) -> None:
        self._bytes = np.empty(size, np.float64)
        self._single = np.empty(size, np.float32)

    def _raw(self, handle: int, stored: StoredTensor, start: int, count: int) -> NDArray[Any]:
        raw: NDArray[Any] = self._bytes.view(RAW[stored.dtype])[:count]
        view = raw.data.cast("B")
        position, size = stored.start + start * raw.itemsize, raw.nbytes
        done = 0
        while done < size:
            got = os.preadv(handle, [view[done:]], position + done)
            if got == 0:
                raise cut_off(stored)
            done += got
        return raw

    def single(self, handle: int, stored: StoredTensor, start: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """As many elements as `out` holds, in float32: exact for all types but F64."""
        raw = self._raw(handle, stored, start, len(out))
        if stored.dtype == "BF16":
            bits = out.view(np.uint32)
            np.copyto(bits, raw)
            np.left_shift(bits, _SIXTEEN, out=bits)
        else:
            np.copyto(out, raw, casting="same_kind")
        return out

    def wide(self, handle: int, stored: StoredTensor, start: int, out: NDArray[np.float64]) -> NDArray[np.float64]:
        """As many elements as `out` holds, in float64."""
        if stored.dtype == "BF16":
            np.copyto(out, self.single(handle, stored, start, self._single[: len(out)]))
        else:
            np.copyto(out, self._raw(handle, stored, start, len(out)))
        return out


def cut_off(stored: StoredTensor) -> SurgeonError:
    """The refusal of a file that ends too early."""
    where = str(stored.path)
    return SurgeonError(f"the shard ends inside tensor {stored.name!r}", where, "it changed while it was read")


def first_values(stored: StoredTensor, count: int) -> NDArray[np.float64]:
    """The first `count` elements of a tensor in float64, or all where it has fewer."""
    size = min(count, math.prod(stored.shape))
    with stored.path.open("rb", buffering=0) as file:
        return Decoder(size).wide(file.fileno(), stored, 0, np.empty(size))
