"""Which shard holds which tensors after blocks came or went: the old ones stay where they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.writer import lay_out
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, OutTensor


def kept_shards(
    checkpoint: Checkpoint, tensors: Sequence[OutTensor], kept: Mapping[str, str], link: bool
) -> tuple[tuple[str, ...], ...]:
    """The names of each shard's tensors: old ones where they were and in their order, new ones behind them in shards
    of their own, or in the one file where there is only one. A shard of which nothing stays is left out. Empty where
    shards are to be filled by size.

    kept: name in the input -> name in the output.
    """
    old = [
        [
            kept[t.name]
            for t in sorted(checkpoint.tensors.values(), key=lambda t: (t.start, t.name))
            if t.path == shard and t.name in kept
        ]
        for shard in checkpoint.shards
    ]
    old = [names for names in old if names]
    known = set(kept.values())
    new = [tensor for tensor in tensors if tensor.name not in known]
    if len(old) == 1 and not link:
        if sum(t.nbytes for t in tensors) > DEFAULT_SHARD_BYTES or len({t.dtype for t in tensors}) > 1:
            return ()  # of several types, wide ones must come first for all to be aligned
        return ((*old[0], *(t.name for t in new)),)
    added = lay_out([(t.name, t.dtype, t.shape) for t in new], DEFAULT_SHARD_BYTES).shards if new else ()
    return tuple(map(tuple, old)) + tuple(tuple(name for name, _, _ in entries) for _, entries in added)
