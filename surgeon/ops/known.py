"""The digests of an output's shards, from what is known of the inputs: only computed tensors are read again.

They say what ought to be in the shards, and so `surgeon verify` finds a fault of the copying too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.known_digests import let_tick_pass, recall, remember, stamp
from surgeon.checkpoint.tree_digest import WeightDigest, tensor_digest, weight_digests, zeros_digest
from surgeon.checkpoint.writer import Layout
from surgeon.ops.plain import plain_bytes
from surgeon.ops.plan import Copy, OutTensor, Plan, Zeros


def known_tensors(plan: Plan, inputs: Mapping[str, Checkpoint]) -> dict[str, str]:
    """Name of an output tensor -> its digest, of those that are copied from a file whose digests are known (planning
    has read it), that are zero, or that hold one plain value. To be asked before anything is linked."""
    files: dict[Path, WeightDigest | None] = {}

    def digest(tensor: OutTensor) -> str | None:
        if isinstance(tensor.source, Zeros):
            return zeros_digest(tensor.nbytes)
        if isinstance(tensor.source, Copy):
            stored = inputs[tensor.source.model].tensor(tensor.source.tensor)
            if stored.path not in files:
                files[stored.path] = recall(stamp(stored.path))
            held = files[stored.path]
            return None if held is None else held.tensors.get(stored.name)
        raw = plain_bytes(tensor)
        return None if raw is None else tensor_digest(raw)

    found = {tensor.name: digest(tensor) for tensor in plan.tensors}
    return {name: own for name, own in found.items() if own is not None}


def digests_of_shards(folder: Path, layout: Layout, known: Mapping[str, str], threads: int) -> dict[str, WeightDigest]:
    """Shard -> its digest; tensors that are not known are read."""
    have = [{name: known[name] for name, _, _ in entries if name in known} for _, entries in layout.shards]
    names = [shard for shard, _ in layout.shards]
    return dict(zip(names, weight_digests([folder / name for name in names], have, threads), strict=True))


def keep(folder: Path, weights: Mapping[str, WeightDigest], linked: Sequence[str]) -> None:
    """Remember the digests of what has been written, for the next operation on it."""
    let_tick_pass([folder / name for name in weights if name not in linked])
    for name, digest in weights.items():
        remember(stamp(folder / name), digest, time.time_ns(), linked=name in linked)
