"""Old tokens that keep the same company as a new one: nearest neighbours in a PPMI-SVD space of the target text.

Source: Levy and Goldberg 2014; Levy, Goldberg and Dagan 2015 (context distribution smoothing 0.75, U sqrt(S)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from surgeon.errors import SurgeonError

_SMOOTHING = 0.75
_CHUNK = 512


def neighbours(
    tokens: np.ndarray,
    documents: np.ndarray,
    new_ids: Sequence[int],
    old_ids: Sequence[int],
    *,
    window: int,
    num: int,
    dimensions: int,
) -> list[list[int]]:
    """For each new id up to `num` of `old_ids` (nearest first, cosine); none for an id that the text does not hold.

    tokens, documents: int64 [T], ids and the number of the document of each position. At most |chunk| x |old ids in
    the text| similarities are held at one time.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import svds

    present, codes = np.unique(tokens, return_inverse=True)
    size = len(present)
    rank = min(dimensions, size - 1)
    if rank < 2:
        raise SurgeonError(
            f"the target text holds {size} different tokens", "--corpus", "give more text, or another --init"
        )
    total = coo_array((size, size), dtype=np.float64).tocsr()
    for offset in range(1, window + 1):
        same = documents[:-offset] == documents[offset:]
        left, right = codes[:-offset][same], codes[offset:][same]
        pairs = coo_array((np.ones(len(left)), (left, right)), shape=(size, size)).tocsr()
        total = total + pairs + pairs.T
    found = total.tocoo()
    rows: NDArray[np.float64] = np.asarray(total.sum(1), dtype=np.float64).ravel()
    contexts = rows**_SMOOTHING
    value = np.log(found.data * contexts.sum() / (rows[found.row] * contexts[found.col]))
    keep = value > 0
    ppmi = coo_array((value[keep], (found.row[keep], found.col[keep])), shape=(size, size)).tocsr()
    start = np.random.Generator(np.random.Philox(0)).standard_normal(size)
    u, s, _ = svds(ppmi, k=rank, v0=start)
    vectors = u * np.sqrt(s)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return _nearest(vectors, present, new_ids, old_ids, num)


def _nearest(
    vectors: np.ndarray, present: np.ndarray, new_ids: Sequence[int], old_ids: Sequence[int], num: int
) -> list[list[int]]:
    place = {int(i): k for k, i in enumerate(present)}
    old = np.asarray([i for i in old_ids if i in place], dtype=np.int64)
    out: list[list[int]] = [[] for _ in new_ids]
    if not len(old):
        return out
    old_vectors = vectors[[place[int(i)] for i in old]]
    held = [k for k, i in enumerate(new_ids) if i in place]
    for start in range(0, len(held), _CHUNK):
        chunk = held[start : start + _CHUNK]
        similar = vectors[[place[new_ids[k]] for k in chunk]] @ old_vectors.T
        order = np.argsort(-similar, axis=1, kind="stable")[:, :num]
        for k, best in zip(chunk, order, strict=True):
            out[k] = [int(old[b]) for b in best]
    return out
