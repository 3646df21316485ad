"""Which shard holds which tensors after blocks came or went: the old ones stay where they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgeon.checkpoint.header import DTYPE_BYTES, StoredTensor, header_bytes, read_header
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import FilesBefore
from surgeon.checkpoint.writer import METADATA, lay_out, shard_names
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, OutTensor, runs


def files_of(checkpoint: Checkpoint) -> FilesBefore:
    """How the weights lie in their files, for the way back."""
    names = [shard.name for shard in checkpoint.shards]
    metadata = [read_header(shard)[1] for shard in checkpoint.shards]
    place = {t.name: number for number, t in enumerate(sorted(checkpoint.tensors.values(), key=_by_name))}
    return FilesBefore(
        nbytes=checkpoint.num_bytes,
        headers=[len(header_bytes(shard)) for shard in checkpoint.shards],
        tensors=[list(runs([place[name] for name in held])) for held in _in_file_order(checkpoint)],
        index=checkpoint.index_metadata,
        names=names if names != shard_names(len(names)) else [],
        metadata=metadata if any(held != METADATA for held in metadata) else [],
    )


def shards_before(before: FilesBefore, tensors: Sequence[OutTensor]) -> tuple[tuple[str, ...], ...]:
    """The shards that these tensors were in; empty where they are not as many as then."""
    names = [t.name for t in sorted(tensors, key=_by_name)]
    shards = [[place for start, stop in held for place in range(start, stop)] for held in before.tensors]
    if sorted(place for held in shards for place in held) != list(range(len(names))):
        return ()
    return tuple(tuple(names[place] for place in held) for held in shards)


def _by_name(tensor: StoredTensor | OutTensor) -> tuple[int, str]:
    """The order in which the safetensors library writes tensors, so that a file of its has few runs."""
    return -DTYPE_BYTES[tensor.dtype], tensor.name


def _in_file_order(checkpoint: Checkpoint) -> list[list[str]]:
    """The names of each shard's tensors in the order of their data."""
    ordered = sorted(checkpoint.tensors.values(), key=lambda t: (t.start, t.name))
    return [[t.name for t in ordered if t.path == shard] for shard in checkpoint.shards]


def kept_shards(
    checkpoint: Checkpoint, tensors: Sequence[OutTensor], kept: Mapping[str, str], link: bool
) -> tuple[tuple[str, ...], ...]:
    """The names of each shard's tensors: old ones where they were and in their order, new ones behind them in shards
    of their own, or in the one file where there is only one. A shard of which nothing stays is left out. Empty where
    shards are to be filled by size.

    kept: name in the input -> name in the output.
    """
    old = [[kept[name] for name in names if name in kept] for names in _in_file_order(checkpoint)]
    old = [names for names in old if names]
    known = set(kept.values())
    new = [tensor for tensor in tensors if tensor.name not in known]
    if len(old) == 1 and not link:
        if sum(t.nbytes for t in tensors) > DEFAULT_SHARD_BYTES or len({t.dtype for t in tensors}) > 1:
            return ()  # of several types, wide ones must come first for all to be aligned
        return ((*old[0], *(t.name for t in new)),)
    added = lay_out([(t.name, t.dtype, t.shape) for t in new], DEFAULT_SHARD_BYTES).shards if new else ()
    return tuple(map(tuple, old)) + tuple(tuple(name for name, _, _ in entries) for _, entries in added)
