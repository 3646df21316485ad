"""Which shard of the output holds which tensors: filled by size, or as the input has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgeon.checkpoint.header import PAGE, StoredTensor
from surgeon.checkpoint.index import ADAPTER_WEIGHTS, SINGLE, Checkpoint
from surgeon.checkpoint.writer import Layout, lay_out, shard_names
from surgeon.ops.plan import Copy, OutTensor, Plan


def layout_of(plan: Plan, inputs: Mapping[str, Checkpoint]) -> Layout:
    """The shards of the plan. Where it names them, a shard that is the same as a file of an input is marked as such,
    and one with other names gets a header that leaves its data in the same place within a page."""
    single = ADAPTER_WEIGHTS if plan.kind == "adapter" else SINGLE
    if not plan.shards:
        return lay_out([(t.name, t.dtype, t.shape) for t in plan.tensors], plan.shard_bytes, single)
    by_name = {t.name: t for t in plan.tensors}
    groups = [[by_name[name] for name in names] for names in plan.shards]
    shards, whole, like = [], {}, {}
    for shard, group in zip(shard_names(len(groups), single), groups, strict=True):
        shards.append((shard, tuple((t.name, t.dtype, t.shape) for t in group)))
        origins = [inputs[t.source.model].tensor(t.source.tensor) for t in group if isinstance(t.source, Copy)]
        if len(origins) == len(group) and _is_file(group, origins):
            whole[shard] = origins[0].path
        elif origins and isinstance(group[0].source, Copy):
            like[shard] = origins[0].start % PAGE
    return Layout(tuple(shards), whole, like)


def _is_file(group: Sequence[OutTensor], origins: Sequence[StoredTensor]) -> bool:
    """Whether the tensors are those of one file, all of them, in its order and with their names."""
    first = origins[0]
    if [t.name for t in group] != [o.name for o in origins] or any(o.path != first.path for o in origins):
        return False
    with first.path.open("rb") as file:
        position = 8 + int.from_bytes(file.read(8), "little")
    for origin in origins:
        if origin.start != position:
            return False
        position += origin.nbytes
    return position == first.path.stat().st_size
