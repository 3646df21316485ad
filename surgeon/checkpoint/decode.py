"""Stored floating-point values as numpy arrays, without torch."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.checkpoint.header import StoredTensor
from surgeon.errors import SurgeonError

_RAW: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_SIXTEEN = np.uint32(16)


class Decoder:
    """Reads up to `size` elements of a tensor at a time into buffers of its own: `wide` in float64, `single` in
    float32 (exact for all types but F64)."""

    def __init__(self, size: int, dtype: str) -> None:
        self.dtype = dtype
        self._raw: NDArray[Any] = np.empty(size, _RAW[dtype])
        self.wide = np.empty(size, np.float64)
        self._bits = np.empty(size, np.uint32)
        self.single = self._bits.view(np.float32)

    def load(self, handle: int, stored: StoredTensor, start: int, count: int) -> None:
        """Elements [start, start + count) of the tensor; `handle`: its file, open."""
        raw = self._raw[:count]
        view = raw.data.cast("B")
        position, size = stored.start + start * raw.itemsize, raw.nbytes
        done = 0
        while done < size:
            got = os.preadv(handle, [view[done:]], position + done)
            if got == 0:
                raise SurgeonError(
                    f"the shard ends inside tensor {stored.name!r}", str(stored.path), "it changed while it was read"
                )
            done += got
        if self.dtype == "BF16":
            bits = self._bits[:count]
            np.copyto(bits, raw)
            np.left_shift(bits, _SIXTEEN, out=bits)
            np.copyto(self.wide[:count], self.single[:count])
        else:
            np.copyto(self.single[:count], raw, casting="same_kind")
            np.copyto(self.wide[:count], raw)


def first_values(stored: StoredTensor, count: int) -> NDArray[np.float64]:
    """The first `count` elements of a tensor in float64, or all where it has fewer."""
    size = min(count, math.prod(stored.shape))
    decoder = Decoder(size, stored.dtype)
    with stored.path.open("rb", buffering=0) as file:
        decoder.load(file.fileno(), stored, 0, size)
    return decoder.wide
