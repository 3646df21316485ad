"""Static vectors of tokens from the company they keep: the truncated SVD of positive pointwise mutual information.

Shape suffixes: T positions of the text, P different tokens in it, R dimensions, B columns of a block.
Source: Levy and Goldberg 2014; Levy, Goldberg and Dagan 2015 (context distribution smoothing 0.75, U sqrt(S)).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgeon.errors import SurgeonError
from surgeon.vocab.threads import spread

_SMOOTHING = 0.75
_ROUNDS = 20  # of blocks of a quarter of the rank; tests/vocab/test_ppmi.py holds the result to an exact SVD
_DENSE = 1024  # up to so many tokens the SVD is the exact one


def ppmi_vectors(
    tokens: np.ndarray, documents: np.ndarray, *, window: int, dimensions: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(present ids int64 [P] ascending, unit vectors float64 [P, R]) of the tokens of a text.

    tokens, documents: int64 [T], ids and the number of the document of each position; a window does not cross
    documents. R is `dimensions`, or P - 1 where the text holds fewer tokens. The vector of a token without positive
    information about any other is zero. Arithmetic in float64, the same bytes for any number of threads.
    Source: Levy, Goldberg and Dagan 2015, sections 2 and 3.
    """
    present, ppmi_PP = ppmi(tokens, documents, window)
    rank = min(dimensions, len(present) - 1)
    if rank < 2:
        raise SurgeonError(
            f"the target text holds {len(present)} different tokens", "--corpus", "give more text, or another --init"
        )
    u_PR, s_R = _leading(ppmi_PP, rank)
    vectors_PR = (u_PR * s_R.sqrt()).numpy()
    norms = np.sqrt(np.square(vectors_PR).sum(1, keepdims=True))
    return present, np.divide(vectors_PR, norms, out=np.zeros_like(vectors_PR), where=norms > 0)


def ppmi(tokens: np.ndarray, documents: np.ndarray, window: int) -> tuple[NDArray[np.int64], Any]:
    """(present ids [P], sparse float64 [P, P]): max(0, log p(a, b) / (p(a) q(b))), q in proportion to count^0.75."""
    from scipy.sparse import coo_array

    present, codes = np.unique(tokens, return_inverse=True)
    size = len(present)
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
    return present, coo_array((value[keep], (found.row[keep], found.col[keep])), shape=(size, size)).tocsr()


def _leading(a_PP: Any, rank: int) -> tuple[Tensor, Tensor]:
    """The left singular vectors [P, R] and singular values [R] of a sparse matrix, by a block Krylov iteration.

    Not scipy's svds: its last bits follow the number of threads of scipy's BLAS.
    Source: Musco and Musco 2015, algorithm 2, with each block made orthogonal to all before it.
    """
    size, block = a_PP.shape[0], -(-rank // 4)
    transposed = a_PP.T.tocsr()

    def times(matrix: Any, columns: Tensor) -> Tensor:
        return torch.from_numpy(matrix @ columns.numpy())

    with spread():
        if size <= max(_DENSE, (_ROUNDS + 1) * block):
            left, values, _ = torch.linalg.svd(torch.from_numpy(a_PP.toarray()))
            return left[:, :rank], values[:rank]
        start = torch.from_numpy(np.random.Generator(np.random.Philox(0)).standard_normal((size, block)))
        last_PB = torch.linalg.qr(times(a_PP, start))[0]
        basis = last_PB
        for _ in range(_ROUNDS):
            last_PB = times(a_PP, times(transposed, last_PB))
            for _ in range(2):
                last_PB = last_PB - basis @ (basis.T @ last_PB)
            last_PB = torch.linalg.qr(last_PB)[0]
            basis = torch.cat([basis, last_PB], dim=1)
        left, values, _ = torch.linalg.svd(torch.linalg.qr(times(transposed, basis))[1].T.contiguous())
        return basis @ left[:, :rank], values[:rank]
