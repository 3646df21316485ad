"""Which shard of the output holds which tensors: filled by size, or as the input has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from surgeon.checkpoint.header import PAGE, StoredTensor, encode_header, num_bytes, read_header
from surgeon.checkpoint.index import ADAPTER_WEIGHTS, SINGLE, Checkpoint
from surgeon.checkpoint.writer import METADATA, Layout, lay_out, shard_names
from surgeon.ops.plan import Copy, OutTensor, Plan


def layout_of(plan: Plan, inputs: Mapping[str, Checkpoint]) -> Layout:
    """The shards of the plan. Where it names them, a shard that is the same as a file of an input is marked as such,
    and one with other names gets a header that leaves its data in the same place within a page, or one of the length
    that the plan wants."""
    single = ADAPTER_WEIGHTS if plan.kind == "adapter" else SINGLE
    if not plan.shards:
        filled = lay_out([(t.name, t.dtype, t.shape) for t in plan.tensors], plan.shard_bytes, single)
        return replace(filled, index=index_metadata(plan, inputs))
    by_name = {t.name: t for t in plan.tensors}
    groups = [[by_name[name] for name in names] for names in plan.shards]
    wanted = dict(enumerate(plan.headers)) if len(plan.headers) == len(groups) else {}
    names = plan.shard_names or shard_names(len(groups), single)
    said = dict(zip(names, plan.metadata, strict=True)) if plan.metadata else {}
    shards, whole, like, lengths = [], {}, {}, {}
    for number, (shard, group) in enumerate(zip(names, groups, strict=True)):
        shards.append((shard, tuple((t.name, t.dtype, t.shape) for t in group)))
        origins = [inputs[t.source.model].tensor(t.source.tensor) for t in group if isinstance(t.source, Copy)]
        length, metadata = wanted.get(number), said.get(shard)
        same_header = length in (None, _header_length(origins)) and metadata in (None, _metadata(origins))
        if len(origins) == len(group) and _is_file(group, origins) and same_header:
            whole[shard] = origins[0].path
        elif (
            length is not None
            and len(encode_header(shards[-1][1], METADATA if metadata is None else metadata)) <= length
        ):
            lengths[shard] = length
        elif origins and isinstance(group[0].source, Copy):
            like[shard] = origins[0].start % PAGE
    return Layout(tuple(shards), whole, like, lengths, said, index_metadata(plan, inputs))


def index_metadata(plan: Plan, inputs: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """What the index of the output says beside its map: where the plan has one input, what that one's says, with the
    numbers of bytes and of parameters (which transformers writes) of the output. Empty where it has no index."""
    if plan.index:
        return dict(plan.index)
    held = inputs[plan.inputs[0].role] if len(plan.inputs) == 1 else None
    if held is None or not held.index_metadata:
        return {}
    found = held.index_metadata | {"total_size": plan.nbytes}
    if isinstance(found.get("total_parameters"), int):
        found["total_parameters"] += _elements(plan.tensors) - _elements(held.tensors.values())
    return found


def _elements(tensors: Iterable[OutTensor | StoredTensor]) -> int:
    return sum(t.nbytes // num_bytes(t.dtype, ()) for t in tensors)


def _header_length(origins: Sequence[StoredTensor]) -> int | None:
    return min((o.start for o in origins), default=None)


def _metadata(origins: Sequence[StoredTensor]) -> dict[str, str] | None:
    return read_header(origins[0].path)[1] if origins else None


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
