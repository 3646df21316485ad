"""A tied head that is stored beside the embedding: it has to be the same matrix."""

from __future__ import annotations

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.same_rows import same_rows
from surgeon.errors import SurgeonError


def check_one_matrix(checkpoint: Checkpoint, embedding: str, head: str) -> None:
    """Raise SurgeonError where a head that config.json ties is stored as another matrix than the embedding:
    transformers 5 takes it for a head of its own with a warning, older releases drop it without one."""
    a, b = checkpoint.tensors[head], checkpoint.tensors[embedding]
    if not same_rows(a, b):
        other = f"holds other values than {embedding}"
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            other = f"is {a.dtype} {list(a.shape)}, {embedding} {b.dtype} {list(b.shape)}"
        raise SurgeonError(
            f"config.json ties the head to the embedding, and {head} {other}",
            str(checkpoint.path),
            "say tie_word_embeddings: false in config.json (as transformers 5 reads it), or remove the head's tensor",
        )
