"""What a tensor was at initialisation, rebuilt from the base by composing the surgery of a lineage.

The reference of a new block or row is its value at initialisation, never its source block: with the source as the
reference, a weight w < 1 on an identity-expanded model leaks (1 - w) of the source back into zeroed writers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_changes
from functools import partial
from typing import Literal

from surgeon import registry
from surgeon.arch.family import Family
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.errors import SurgeonError
from surgeon.merge.pieces import joined, met_rows, substitute
from surgeon.merge.vocabulary import Met
from surgeon.ops.plan import Apply, Copy, Piece, Rows, Source, Zeros, leaves, source_from_json

OWN = "own"  # in a step that was not recorded: a row of the model itself, of which no earlier value is known
NewBlocks = Literal["none", "source"]
Leaf = Callable[[str], Source]


@dataclass(frozen=True)
class Composition:
    """The surgery `steps` (oldest first) from `base` to a model of `family`; level n is the state after n steps.
    own: the role of the model after the last step."""

    base: Checkpoint
    family: Family
    steps: Sequence[Lineage]
    own: str = "model"

    def initial(self, name: str, leaf: Leaf, level: int | None = None) -> Source:
        """theta at initialisation of the tensor `name` at `level` (default: the last), over leaf(name) of the base."""
        level = len(self.steps) if level is None else level
        if level == 0:
            return leaf(name)
        step = self.steps[level - 1]
        if name not in step.initial:
            return self.initial(self.parent_name(name, step), leaf, level - 1)
        source = _once_stored(source_from_json(step.initial[name]), partial(self._stored_dtype, name, level))

        def below(copy: Copy) -> Source:
            if copy.model == OWN:
                return with_changes(copy, model=self.own)
            return self.initial(copy.tensor, leaf, level - 1)

        return substitute(source, below)

    def lifted(self, name: str, leaf: Leaf, start: int, new_blocks: NewBlocks, level: int | None = None) -> Source:
        """What a model at level `start` has for `name` at `level`: leaf(its tensor), and zeros where it has none.

        New rows get zeros. A new block gets zeros (`none`), or its source block's tensors (`source`; of two blocks
        where the fill mixed them) except those that the fill set to zero or to a constant: a delta there would end
        the identity.
        """
        level = len(self.steps) if level is None else level
        if level == start:
            return leaf(name)
        step = self.steps[level - 1]
        new = is_new_block(self.family.unit(name).block, step)
        if new and new_blocks == "none":
            return Zeros()

        def below(at: str) -> Source:
            return self.lifted(at, leaf, start, new_blocks, level - 1)

        if name not in step.initial:
            return below(self.parent_name(name, step))
        match source_from_json(step.initial[name]):
            case Copy(_, tensor):
                return below(tensor)
            case Zeros() | Apply(method="kernel:constant"):
                return Zeros()
            case Rows(pieces):
                return joined([part for piece in pieces for part in _old_rows(piece, below)])
            case Apply("kernel:interpolate", inputs) as mixed:
                # linear in its inputs, so what is true of values is true of deltas
                ends = tuple(substitute(source, lambda copy: below(copy.tensor)) for source in inputs)
                return Zeros() if all(e == Zeros() for e in ends) else with_changes(mixed, inputs=ends)
            case Apply(method=method):
                raise SurgeonError(
                    f"{step.operation} computed {name!r} with {method}: what a delta means there is not known",
                    "surgeon.json: initial",
                    "use --new-blocks none" if new else "give --onto a model that precedes this step",
                )
        raise AssertionError("sources are a closed set")

    def parent_name(self, name: str, step: Lineage) -> str:
        """The name that the tensor has in the step's parent."""
        block = self.family.unit(name).block
        if step.blocks is None or block is None:
            return name
        return self.family.rename(name, step.blocks.source[block])

    def _stored_dtype(self, name: str, level: int) -> str:
        """The type in which the step stored the tensor: surgery keeps that of the tensor it starts from."""
        origin = name
        for step in reversed(self.steps[:level]):
            origin = self.parent_name(origin, step)
        if origin in self.base.tensors:
            return self.base.tensors[origin].dtype
        # a tensor that the base does not have, such as a head that was untied: that of what it was made from
        source = source_from_json(self.steps[level - 1].initial[name])
        made_from = leaves(substitute(source, lambda copy: self.initial(copy.tensor, partial(Copy, ""), level - 1)))
        return self.base.tensor(made_from[0].tensor if made_from else name).dtype


def is_new_block(block: int | None, step: Lineage) -> bool:
    return block is not None and step.blocks is not None and any(new.block == block for new in step.blocks.new)


def _old_rows(piece: Piece, below: Leaf) -> list[Piece]:
    if not isinstance(piece.source, Copy) or piece.source.model == OWN:
        return [Piece(piece.ids, Zeros())]
    met = Met(((piece.ids, piece.source.shift),), ())
    return met_rows(below(piece.source.tensor), met)


def _once_stored(source: Source, dtype: Callable[[], str]) -> Source:
    """Every computed value rounded as the checkpoint stored it; refuses one that depends on another plan's seed."""
    match source:
        case Rows(pieces):
            return Rows(tuple(with_changes(p, source=_once_stored(p.source, dtype)) for p in pieces))
        case Apply(method):
            kind, _, name = method.partition(":")
            if "seed" in registry.get(kind, name).supplied:
                raise SurgeonError(
                    f"initial values by {method} depend on the seed of the plan that made them",
                    "surgeon.json: initial",
                    "report this: the step should have stored the values under surgeon/",
                )
            return Apply("kernel:rounded", (source,), {"dtype": dtype()})
    return source
