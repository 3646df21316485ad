"""Surgery that no lineage tells of, as a person says it was, or as the tokens show it."""

from __future__ import annotations

from surgeon import registry
from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import BlockMap, Lineage, NewBlock
from surgeon.errors import UsageError, did_you_mean
from surgeon.expand.fill import Filled, gaps
from surgeon.expand.layout import Placed
from surgeon.merge.initial import OWN
from surgeon.merge.pieces import joined, met_rows
from surgeon.merge.vocabulary import Met
from surgeon.ops.plan import Copy, Piece, source_to_json

DEFAULT_FILL = "copy"


def assumed_blocks(text: str, base: Checkpoint) -> Lineage:
    """The step of a model whose blocks came from these blocks of the base: "0,1,1,2", or "0,1,1:zero,2" where the
    second 1 began with a fill other than a plain copy. A block that is named again is new.

    Raises UsageError on anything else.
    """
    family = family_of(base)
    placed, fills = _read(text, family.depth)
    initial = {}
    new = []
    between = gaps(placed)
    for number, block in enumerate(placed):
        if not block.new:
            continue
        fill = registry.get("fill", fills[number])
        supply = {"family": family, "block": block.source, "gap": between[number], "tensors": base.tensors}
        filled: Filled = fill.call(supply, {})
        for name, source in filled.sources.items():
            if source != Copy("model", name):
                initial[family.rename(name, number)] = source_to_json(source)
        new.append(NewBlock(block=number, source=block.source, fill=fills[number]))
    return Lineage(
        operation="expand-layers",
        kind="surgery",
        settings={"assumed": text},
        blocks=BlockMap(source=[p.source for p in placed], new=new),
        initial=initial,
    )


def assumed_rows(family: Family, met: Met) -> Lineage:
    """The step of a model whose rows are those of the base in other places, and rows of its own that the base does not
    have: nothing is known of how these began, so they count as they are, with no delta."""
    initial = {}
    for name in (family.embedding, family.head, family.head_bias):
        if name is not None and not (name == family.head and family.tied):
            pieces = [*met_rows(Copy("model", name), met), *([Piece(met.alone, Copy(OWN, name))] if met.alone else [])]
            initial[name] = source_to_json(joined(pieces))
    return Lineage(operation="extend-vocab", kind="surgery", settings={"assumed": "rows by token"}, initial=initial)


def _read(text: str, depth: int) -> tuple[list[Placed], dict[int, str]]:
    placed: list[Placed] = []
    fills: dict[int, str] = {}
    seen: dict[int, None] = {}
    for number, word in enumerate(text.split(",")):
        block, colon, fill = word.strip().partition(":")
        if not block.isdecimal() or int(block) >= depth:
            raise UsageError(
                f"{word!r} is not a block of the base, which has {depth}",
                f"--blocks {text}",
                "name the base's block that each block came from: 0,1,1,2 (or 1:zero where it began as an identity)",
            )
        source = int(block)
        if colon and source not in seen:
            raise UsageError(
                f"block {number} is the first one from {source}, so it is not new",
                f"--blocks {text}",
                "leave :FILL out",
            )
        if colon and fill not in registry.names("fill"):
            raise UsageError(
                f"there is no fill {fill!r}", f"--blocks {text}", did_you_mean(fill, registry.names("fill"))
            )
        placed.append(Placed(source, source in seen))
        if source in seen:
            fills[number] = fill if colon else DEFAULT_FILL
        seen[source] = None
    return placed, fills
