"""Orders that are pure functions of a key."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def keyed_permutation(count: int, seed: int, stream: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of range(count) decided by (seed, stream, epoch) alone; int64 [count].

    The raw 64-bit words of Philox are sorted: the words are fixed by the algorithm (Salmon et al. 2011), while
    numpy's own `permutation` may change between versions. Source: Salmon et al. 2011, Philox4x64.
    """
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, (stream << 32 | epoch) & 0xFFFF_FFFF_FFFF_FFFF], dtype=np.uint64)
    words = np.random.Philox(key=key).random_raw(count)
    return np.argsort(words, kind="stable")
