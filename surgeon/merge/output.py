"""Which tensors of a merge are merged."""

from __future__ import annotations

from collections.abc import Sequence

from surgeon.checkpoint.header import FLOATS
from surgeon.merge.ancestry import Member


def is_float(name: str, members: Sequence[Member]) -> bool:
    """Whether the tensor is merged; whole numbers (buffers) are not."""
    held = [m.checkpoint.tensors[name] for m in members if name in m.checkpoint.tensors]
    return all(t.dtype in FLOATS for t in held)
