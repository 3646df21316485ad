"""Which old rows may stand in means and hulls."""

from __future__ import annotations

import hashlib
from collections import Counter

from surgeon.checkpoint.header import StoredTensor
from surgeon.errors import SurgeonError
from surgeon.vocab.tokenizer_json import TokenizerFile

_CHUNK_BYTES = 1 << 26


def usable_ids(file: TokenizerFile, stored: StoredTensor) -> tuple[int, ...]:
    """Ascending ids in use and not special, whose rows are neither all zero nor equal to another such row.

    Equal and zero rows were never trained (reserved tokens, padding). Refuses a row that is not finite.
    """
    import torch

    from surgeon.checkpoint.reader import read

    special = set(file.special_ids)
    ids = [i for i in file.ids if i not in special]
    digests: dict[int, bytes] = {}
    step = max(1, _CHUNK_BYTES * stored.shape[0] // max(stored.nbytes, 1))
    for start in range(0, stored.shape[0], step):
        stop = min(start + step, stored.shape[0])
        rows = read(stored, (start, stop))
        if not bool(torch.isfinite(rows).all()):
            bad = start + int((~torch.isfinite(rows).reshape(len(rows), -1).all(1)).nonzero()[0])
            raise SurgeonError(f"row {bad} of {stored.name!r} is not finite", str(stored.path), "restore the file")
        filled = rows.reshape(len(rows), -1).any(1).tolist()
        raw = rows.contiguous().view(torch.uint8).reshape(len(rows), -1).numpy()
        for i in range(start, stop):
            if filled[i - start]:
                digests[i] = hashlib.blake2b(raw[i - start].tobytes(), digest_size=16).digest()
    seen = Counter(digests[i] for i in ids if i in digests)
    found = tuple(i for i in ids if i in digests and seen[digests[i]] == 1)
    if not found:
        raise SurgeonError(f"{stored.name!r} has no trained row", str(stored.path), "give a trained model")
    return found
