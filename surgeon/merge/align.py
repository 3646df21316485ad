"""Which tensor meets which: for every tensor of the target its reference, and the delta of every tuned model there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from surgeon.arch.family import Family
from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member
from surgeon.merge.initial import Composition, NewBlocks
from surgeon.merge.pieces import intersection, joined, masked, met_rows, overlay, restrict
from surgeon.merge.vocabulary import Met, Runs
from surgeon.ops.plan import Apply, Copy, Piece, Source, Zeros, runs

NewRows = Literal["own", "zero"]
UNTIE = (
    "bring both to one form; merge-task-vectors has --untie: the output gets a head of its own, and its config.json "
    "says so"
)


@dataclass(frozen=True)
class Taken:
    """Rows that come whole from one model: `ids` of the output, `shift` as in Copy."""

    member: Member
    ids: Runs
    shift: int


@dataclass(frozen=True)
class Alignment:
    """Positions are those of `target`; `base` is where its lineage starts. Every other member stands at a prefix of
    the target's surgery (checked by `check_positions`).

    untie: the output has a head of its own though the target's is its embedding. taken: rows that are not merged; the
    output has `rows` rows, as many as the target unless some are added behind them.
    """

    base: Member
    target: Member
    new_blocks: NewBlocks = "none"
    new_rows: NewRows = "own"
    untie: bool = False
    taken: tuple[Taken, ...] = ()
    rows: int | None = None

    @property
    def family(self) -> Family:
        return self.target.family

    @property
    def head(self) -> str:
        return f"{self.family.declaration.head}.weight"

    def is_vocabulary(self, name: str) -> bool:
        """Whether the tensor has a row a token."""
        return name in (self.family.embedding, self.head, self.family.head_bias)

    @cached_property
    def _composition(self) -> Composition:
        return Composition(self.base.checkpoint, self.family, self.target.steps, self.target.role)

    def reference(self, name: str) -> Source:
        """The target's tensor at initialisation, over the base; rows that are taken are there already."""
        return self._with_taken(self.initial(name), name, whole=True)

    def initial(self, name: str) -> Source:
        """The target's tensor at initialisation, over the base."""
        return self._composition.initial(self._known(name), self._leaves(self.base, name))

    def values(self, member: Member, name: str) -> Source:
        """The member's own values at the target's positions, Zeros where it contributes nothing."""
        found = self._lift(member, name, own=True)
        return self._with_taken(self._mask(found, name), name, whole=False)

    def delta(self, member: Member, name: str) -> Source | None:
        """The member's values less its own values at initialisation, in target positions; None where it has none."""
        values = self.values(member, name)
        if isinstance(values, Zeros):
            return None
        at_first = masked(self._mask(self._lift(member, name, own=False), name), values)
        return None if values == at_first else Apply("kernel:subtract", (values, at_first))

    def whole(self, member: Member, name: str) -> Source:
        """reference + delta of this member alone, as exact bytes: its values, and the reference where it has none."""
        return overlay(self.values(member, name), self.reference(name))

    def _lift(self, member: Member, name: str, own: bool) -> Source:
        first = self._leaves(self.base, name)
        if own:
            leaf = self._leaves(member, name)
        else:

            def leaf(at: str) -> Source:
                return self._composition.initial(at, first, member.level)

        return self._composition.lifted(self._known(name), leaf, member.level, self.new_blocks)

    def _mask(self, source: Source, name: str) -> Source:
        if self.new_rows == "own":
            return source
        old = self._composition.lifted(self._known(name), self._leaves(self.base, name), 0, "source")
        # a new block has no rows of its own: only pieces mark new rows
        return source if isinstance(old, Zeros) else masked(source, old)

    def _with_taken(self, source: Source, name: str, whole: bool) -> Source:
        """Rows that are taken in place of what is there: as they are (whole), or as no change."""
        if not self.taken or not self.is_vocabulary(name):
            return source
        num = self.target.checkpoint.tensors[self._known(name)].shape[0]
        gone = [i for t in self.taken for start, stop in t.ids for i in range(start, stop)]
        rest = runs(sorted({*range(num)} - {*gone}))
        pieces = [] if isinstance(source, Zeros) and not whole else restrict(source, rest)
        if not whole:
            return joined([*pieces, Piece(runs(sorted(gone)), Zeros())]) if pieces else Zeros()
        for t in self.taken:
            pieces += met_rows(self._own(t.member, name), Met(((t.ids, t.shift),), ()))
        return joined(pieces)

    def _known(self, name: str) -> str:
        """The name under which the target's history knows the tensor: a head that it does not have was its
        embedding."""
        return self.family.embedding if self.untie and name == self.head and self.family.tied else name

    def _leaves(self, member: Member, name: str) -> Callable[[str], Source]:
        """What stands under a name in the member; for a head that the target does not have, the member's head."""
        known = self._known(name)

        def leaf(at: str) -> Source:
            return self._leaf(member, name if at == known else at)

        return leaf

    def _own(self, member: Member, name: str) -> Source:
        """The member's tensor at its own rows."""
        tensors = member.checkpoint.tensors
        at = self.family.embedding if name == self.head and member.is_tied() else name  # one matrix, stored once
        if at not in tensors and at not in member.changed:
            raise SurgeonError(
                f"{member.name} has no tensor {name!r}, which {self.target.name} has there",
                str(member.checkpoint.path),
                "the models must descend from one base: check that it is the same architecture and revision, and say "
                "what was done to a model without surgeon.json (--lineage, --blocks)",
            )
        self._check_shape(member, at)
        return member.changed.get(at, Copy(member.role, at))

    def _leaf(self, member: Member, name: str) -> Source:
        """The same at the base's rows, for a model whose tokens stand elsewhere."""
        source = self._own(member, name)
        if member.met is None or not self.is_vocabulary(name):
            return source
        alone = [Piece(member.met.alone, Zeros())] if member.met.alone else []
        return joined([*met_rows(source, member.met), *alone])

    def _check_shape(self, member: Member, name: str) -> None:
        peer = self._peer(member)
        tensors = member.checkpoint.tensors
        if peer is None or name not in peer.checkpoint.tensors or name not in tensors:
            return
        by_rows = 1 if member.met is not None and self.is_vocabulary(name) else 0
        shape, expected = tensors[name].shape[by_rows:], peer.checkpoint.tensors[name].shape[by_rows:]
        if shape != expected:
            raise SurgeonError(
                f"{name!r} is {list(shape)} in {member.name} and {list(expected)} in {peer.name}",
                str(member.checkpoint.path),
                "a model whose shape was changed is aligned by its surgeon.json only: change it with surgeon "
                "(extend-vocab, expand-layers) from this base, or say what was done (--lineage, --blocks)",
            )

    def _peer(self, member: Member) -> Member | None:
        """The member that must have the same shapes."""
        return {self.target.level: self.target, 0: self.base}.get(member.level)

    def check_positions(self, members: list[Member]) -> None:
        """Refuse members that are not on the way from the base to the target, or of another kind."""
        for member in members:
            if member.signature != self.target.signature[: member.level]:
                raise SurgeonError(
                    f"{member.name} and {self.target.name} were operated on in different ways after {self.base.name}",
                    f"{member.checkpoint.path}/surgeon.json",
                    "merge models whose surgery is the same, or the beginning of the other's",
                )
            peer = self._peer(member)
            # one that was untied beside the target's history has a head that the target has no place for
            other = self.target if peer is None and member.met is not None and not member.is_tied() else peer
            if not self.untie and other is not None and member.is_tied() != other.is_tied():
                tied, untied = (member, other) if member.is_tied() else (other, member)
                raise SurgeonError(
                    f"{tied.name} ties its head to the embedding and {untied.name} does not",
                    str(member.checkpoint.path),
                    UNTIE,
                )
            self._check_names(member, peer)

    def _check_names(self, member: Member, peer: Member | None) -> None:
        if peer is None:
            return
        redundant = {self.head} if member.family.tied or self.untie else set()
        for name in member.checkpoint.tensors:
            if name not in peer.checkpoint.tensors and name not in redundant and member.family.role(name) != "buffer":
                raise SurgeonError(
                    f"{member.name} has the tensor {name!r}, which {peer.name} does not have",
                    str(member.checkpoint.path),
                    "a model whose shape was changed is aligned by its surgeon.json only: change it with surgeon "
                    "(expand-layers) from this base, or say what was done (--lineage, --blocks)",
                )

    def row_sources(self, member: Member, name: str, ids: Runs) -> list[Piece]:
        """The member's values at rows of the target as pieces, less those that it does not have."""
        found = restrict(self.values(member, name), ids)
        return [piece for piece in found if not isinstance(piece.source, Zeros) and intersection(piece.ids, ids)]
