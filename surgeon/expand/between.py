"""A new block on the line between the two old ones that it stands between."""

from __future__ import annotations

from collections.abc import Mapping

from surgeon.arch.family import Family
from surgeon.checkpoint.header import StoredTensor
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.fill import Gap, copies
from surgeon.ops.plan import Apply, Copy, Source


def between(
    family: Family, block: int, gap: Gap, tensors: Mapping[str, StoredTensor], t: float, fill: str
) -> dict[str, Source]:
    """(1 - t) times `block` plus t times the block behind the gap, tensor by tensor; buffers as in `block`.

    Refused behind the last block, where the layout does not put a new block beside its source, and between blocks
    that are not made of the same parts.
    """
    if gap.before != block:
        raise UsageError(
            f"the fill {fill} mixes neighbours, and the layout puts the copy of block {block} behind {gap.before}",
            "--layout block",
            "use --layout interleave, or --fill copy",
        )
    if gap.after is None:
        raise SurgeonError(
            f"the fill {fill} mixes two neighbours, and nothing follows block {block}",
            f"--fill {fill}",
            "choose blocks before the last one, such as --at, or --fill copy",
        )
    sources = copies(family, block)
    parts = {family.unit(name).part for name in sources}
    if parts != set(family.parts(gap.after)):
        differing = sorted(parts ^ set(family.parts(gap.after)))[0]
        raise SurgeonError(
            f"blocks {block} and {gap.after} differ in {differing}: there is nothing between them",
            f"--fill {fill}",
            "choose neighbours of one kind with --at, or --fill copy",
        )
    for name in sources:
        other = family.rename(name, gap.after)
        if family.role(name) == "buffer":
            continue
        if other not in tensors or tensors[other].shape != tensors[name].shape:
            raise SurgeonError(
                f"{name} has no counterpart of its shape in block {gap.after}",
                f"--fill {fill}",
                "choose neighbours of one kind with --at, or --fill copy",
            )
        sources[name] = Apply("kernel:interpolate", (Copy("model", name), Copy("model", other)), {"t": t})
    return sources
