"""Old tokens that keep the same company as a new one: nearest neighbours in a PPMI-SVD space of the target text.

Source: Levy and Goldberg 2014; Levy, Goldberg and Dagan 2015 (context distribution smoothing 0.75, U sqrt(S)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from surgeon.vocab.ppmi import ppmi_vectors
from surgeon.vocab.threads import spread

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
    present, vectors = ppmi_vectors(tokens, documents, window=window, dimensions=dimensions)
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
    with spread() as run:
        chunks = [held[start : start + _CHUNK] for start in range(0, len(held), _CHUNK)]
        found = run(lambda chunk: _best(vectors[[place[new_ids[k]] for k in chunk]], old_vectors, num), chunks)
    for chunk, best in zip(chunks, found, strict=True):
        for k, row in zip(chunk, best, strict=True):
            out[k] = old[row].tolist()
    return out


def _best(vectors: np.ndarray, old_vectors: np.ndarray, num: int) -> list[np.ndarray]:
    """For each vector the places of its `num` greatest cosines, greatest first, ties in the order of the old ids."""
    distance = -(torch.from_numpy(vectors) @ torch.from_numpy(old_vectors).T).numpy()
    num = min(num, distance.shape[1])
    least = np.partition(distance, num - 1, axis=1)[:, num - 1]
    found = [np.flatnonzero(row <= bound) for row, bound in zip(distance, least, strict=True)]
    return [at[np.argsort(row[at], kind="stable")][:num] for row, at in zip(distance, found, strict=True)]
