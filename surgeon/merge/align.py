"""Which tensor meets which: for every tensor of the target its reference, and the delta of every tuned model there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from surgeon.arch.family import Family, family_of
from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member
from surgeon.merge.initial import Composition, NewBlocks
from surgeon.merge.pieces import masked, overlay
from surgeon.ops.plan import Apply, Copy, Source, Zeros

NewRows = Literal["own", "zero"]


@dataclass(frozen=True)
class Alignment:
    """Positions are those of `target`; `base` is where its lineage starts. Every other member stands at a prefix of
    the target's surgery (checked by `check_positions`)."""

    base: Member
    target: Member
    new_blocks: NewBlocks = "none"
    new_rows: NewRows = "own"

    @cached_property
    def family(self) -> Family:
        return family_of(self.target.checkpoint)

    @cached_property
    def _composition(self) -> Composition:
        return Composition(self.base.checkpoint, self.family, self.target.steps)

    def reference(self, name: str) -> Source:
        """The target's tensor at initialisation, over the base."""
        return self._composition.initial(name, lambda at: self._leaf(self.base, at))

    def values(self, member: Member, name: str) -> Source:
        """The member's own values at the target's positions, Zeros where it contributes nothing."""
        return self._mask(self._lift(member, name, own=True), name)

    def delta(self, member: Member, name: str) -> Source | None:
        """The member's values less its own values at initialisation, in target positions; None where it has none."""
        values = self.values(member, name)
        if isinstance(values, Zeros):
            return None
        at_first = self._mask(self._lift(member, name, own=False), name)
        return None if values == at_first else Apply("kernel:subtract", (values, at_first))

    def whole(self, member: Member, name: str) -> Source:
        """reference + delta of this member alone, as exact bytes: its values, and the reference where it has none."""
        return overlay(self.values(member, name), self.reference(name))

    def _lift(self, member: Member, name: str, own: bool) -> Source:
        def leaf(at: str) -> Source:
            if own:
                return self._leaf(member, at)
            return self._composition.initial(at, lambda below: self._leaf(self.base, below), member.level)

        return self._composition.lifted(name, leaf, member.level, self.new_blocks)

    def _mask(self, source: Source, name: str) -> Source:
        if self.new_rows == "own":
            return source
        old = self._composition.lifted(name, lambda at: self._leaf(self.base, at), 0, "source")
        # a new block has no rows of its own: only pieces mark new rows
        return source if isinstance(old, Zeros) else masked(source, old)

    def _leaf(self, member: Member, name: str) -> Copy:
        tensors, family = member.checkpoint.tensors, self.family
        if name not in tensors and name == f"{family.declaration.head}.weight" and _is_tied(member):
            name = family.embedding  # one matrix, stored once
        if name not in tensors:
            raise SurgeonError(
                f"{member.name} has no tensor {name!r}, which {self.target.name} has there",
                str(member.checkpoint.path),
                "the models must descend from one base: check that it is the same architecture and revision",
            )
        self._check_shape(member, name)
        return Copy(member.role, name)

    def _check_shape(self, member: Member, name: str) -> None:
        peer = self._peer(member)
        if peer is None or name not in peer.checkpoint.tensors:
            return
        shape, expected = member.checkpoint.tensors[name].shape, peer.checkpoint.tensors[name].shape
        if shape != expected:
            raise SurgeonError(
                f"{name!r} is {list(shape)} in {member.name} and {list(expected)} in {peer.name}",
                str(member.checkpoint.path),
                "a model whose shape was changed is aligned by its surgeon.json only: change it with surgeon "
                "(extend-vocab, expand-layers) from this base",
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
            family = family_of(member.checkpoint)
            if family.model_type != self.family.model_type:
                raise SurgeonError(
                    f"{member.name} is a {family.model_type}, {self.target.name} a {self.family.model_type}",
                    str(member.checkpoint.path),
                    "merge models of one base",
                )
            peer = self._peer(member)
            if peer is not None and family.tied != _is_tied(peer):
                tied, untied = (member, peer) if family.tied else (peer, member)
                raise SurgeonError(
                    f"{tied.name} ties its head to the embedding and {untied.name} does not",
                    str(member.checkpoint.path),
                    "bring both to one form: save the tied one with tie_word_embeddings=false and an lm_head.weight",
                )
            self._check_names(member, family, peer)

    def _check_names(self, member: Member, family: Family, peer: Member | None) -> None:
        if peer is None:
            return
        redundant = {family.head} if family.tied else set()
        for name in member.checkpoint.tensors:
            if name not in peer.checkpoint.tensors and name not in redundant and family.role(name) != "buffer":
                raise SurgeonError(
                    f"{member.name} has the tensor {name!r}, which {peer.name} does not have",
                    str(member.checkpoint.path),
                    "a model whose shape was changed is aligned by its surgeon.json only: change it with surgeon "
                    "(expand-layers) from this base",
                )


def _is_tied(member: Member) -> bool:
    return family_of(member.checkpoint).tied
