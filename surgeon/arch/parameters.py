"""Which tensors of a checkpoint are parameters."""

from __future__ import annotations

from surgeon.arch.family import Family
from surgeon.checkpoint.header import StoredTensor
from surgeon.checkpoint.index import Checkpoint


def parameters(checkpoint: Checkpoint, family: Family) -> list[StoredTensor]:
    """What is learned, as stored: no buffers, and not the copy of the embedding that a tied head may be stored as."""
    copy = family.head if family.tied else None
    return [t for name, t in checkpoint.tensors.items() if name != copy and family.role(name) != "buffer"]
