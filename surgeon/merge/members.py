"""The models of a merge: opened, refused where their weights cannot be added up, placed in the base's history."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from surgeon import model_ref
from surgeon.adapters.base_check import check_base
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, read_lineage
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.ancestry import Member, begins, extends_one_of, surgery_since
from surgeon.merge.assumed import assumed_blocks, assumed_rows
from surgeon.merge.called import not_called
from surgeon.merge.computation import check_computation
from surgeon.merge.contexts import check_contexts, context_since
from surgeon.merge.graded import Graded
from surgeon.merge.kinship import check_kinship
from surgeon.merge.naming import told_apart
from surgeon.merge.own_tokens import beside
from surgeon.merge.quantised import refuse_quantised
from surgeon.merge.recorded import check_fits, check_rows
from surgeon.merge.vocabulary import meet, same_files, vocabulary_of
from surgeon.merge.weights import parse_weight
from surgeon.ops.plan import Copy, Input, map_copies


@dataclass(frozen=True)
class Weighted:
    """A model with the weight of its task vector."""

    member: Member
    weight: Graded


@dataclass(frozen=True)
class Members:
    """base: where the task vectors start. target: whose shape and files the output has. added: in the order of their
    digests. inputs: of the plan, the target first."""

    base: Member
    target: Member
    added: tuple[Weighted, ...]
    inputs: tuple[Input, ...]

    @property
    def all(self) -> list[Member]:
        return [self.base, self.target, *(entry.member for entry in self.added)]

    def of(self, name: str) -> Member:
        """The model that a person calls so (its folder's name, or as it was given)."""
        found = [
            m
            for m in self.all
            if name in (m.name, str(m.checkpoint.path)) or Path(name).absolute() == m.checkpoint.path
        ]
        if not found:
            raise not_called(name, [m.name for m in self.all])
        return found[0]


@dataclass(frozen=True)
class Opening:
    """What a person says of models that have no lineage. lineage: a surgeon.json; blocks: the base's block that each
    block came from; any_base: do not ask whether they share the base, or compute as it does."""

    lineage: Path | None = None
    blocks: str | None = None
    any_base: bool = False


def open_members(base: str, add: Sequence[str], onto: str | None, how: Opening) -> Members:
    """Raises UsageError on words that do not parse, SurgeonError on models that do not meet."""
    entries = [parse_weight(text) for text in add]
    words = [base, *(name for name, _ in entries), *([] if onto is None else [onto])]
    roles = ["base", *(f"tuned{n}" for n in range(len(entries))), "onto"]
    root, *models = told_apart([open_member(w, r, how.any_base) for w, r in zip(words, roles, strict=False)])
    opened = sorted(zip(models, (weight for _, weight in entries), strict=False), key=lambda e: e[0].digest)
    for (one, _), (other, _) in pairwise(opened):
        if one.digest == other.digest:
            raise UsageError(
                f"{one.name} and {other.name} are the same model", "--add", "give it once, with the sum of the weights"
            )
    added = [Weighted(_placed(member, root, how), weight) for member, weight in opened]
    unknown = {m.checkpoint.digest for m, _ in opened if m.checkpoint.lineage is None} - {root.checkpoint.digest}
    asked = None if onto is None else _placed(models[-1], root, how, unknown)
    if asked is not None:
        added = [Weighted(beside(e.member, asked), e.weight) for e in added]
    target = _target(root, added, asked)
    added = [Weighted(beside(e.member, target), e.weight) for e in added]
    check_contexts(target, [entry.member for entry in added])
    if not how.any_base:
        check_computation(root, target, [entry.member for entry in added])
    added = [Weighted(_met(e.member, root, target), e.weight) for e in added]
    target = next((e.member for e in added if e.member.digest == target.digest), _met(target, root, target))
    if target.digest == root.digest:
        target = root
    target = _with_own_rows(target, root)
    return _with_roles(root, target, added)


def open_member(text: str, role: str, any_base: bool = False) -> Member:
    """A model, or a model with an adapter, as a person names it. any_base: even an adapter of another model."""
    ref = model_ref.resolve(text)
    checkpoint = Checkpoint.open(ref.path)
    refuse_quantised(checkpoint, ref.name)
    if ref.adapter is None:
        return Member(role, ref.name, checkpoint)
    check_base(ref.adapter.path, checkpoint, any_base)
    digest = Checkpoint.open(ref.adapter.path).digest
    return Member(role, f"{ref.name}+{ref.adapter.name}", checkpoint, adapter=digest, folder=ref.adapter.path)


def _placed(member: Member, base: Member, how: Opening, unknown: Container[str] = ()) -> Member:
    """With the surgery that led to it: by its lineage, by a lineage that was given, or by blocks that were given.
    unknown: digests of models without a lineage; one that only got tokens after one of them meets as they do."""
    checkpoint = member.checkpoint
    if checkpoint.digest == base.checkpoint.digest:
        return member
    if member.family.model_type != base.family.model_type:
        raise SurgeonError(
            f"{member.name} is a {member.family.model_type}, {base.name} a {base.family.model_type}",
            str(checkpoint.path),
            "merge models of one base",
        )
    changed = _shapes(checkpoint) != _shapes(base.checkpoint)
    # what was taken out of a multimodal model after it was operated on there: how it came to its shapes is not told
    untold = checkpoint.lineage is not None and begins(checkpoint.lineage) and changed
    if checkpoint.lineage is not None and not untold and not extends_one_of(checkpoint.lineage, unknown):
        steps = surgery_since(checkpoint.lineage, checkpoint, member.name, base)
        member = replace(member, steps=steps, context=context_since(checkpoint.lineage, base))
        check_rows(member, base)
        return member
    if how.lineage is not None and changed:
        given = given_lineage(how.lineage)
        steps = surgery_since(given, checkpoint, str(how.lineage), base)
        member = replace(
            member, steps=steps, tables=how.lineage.parent / SURGEON_DIR, context=context_since(given, base)
        )
        check_fits(member, base, how.lineage)
    elif how.blocks is not None and member.family.depth != base.family.depth:
        step = assumed_blocks(how.blocks, base.checkpoint)
        assert step.blocks is not None
        if len(step.blocks.source) != member.family.depth:
            raise UsageError(
                f"{len(step.blocks.source)} blocks are named, {member.name} has {member.family.depth}",
                f"--blocks {how.blocks}",
                "name one block of the base for each of its blocks",
            )
        member = replace(member, steps=(step,))
    if not how.any_base:
        check_kinship(base, member)
    return member


def given_lineage(path: Path) -> Lineage:
    """The lineage of --lineage. Raises UsageError on any other file."""
    lineage = read_lineage(path.parent) if path.name == "surgeon.json" else None
    if lineage is None:
        raise UsageError(
            "this is not the surgeon.json of a checkpoint",
            f"--lineage {path}",
            "give DIR/surgeon.json as surgeon wrote it",
        )
    return lineage


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in checkpoint.tensors.items()}


def _target(base: Member, added: Sequence[Weighted], asked: Member | None) -> Member:
    """--onto, else the most operated-on model: of several, one whose context was extended, then the one of the largest
    weight, then by digest. Rows of its own and a longer context count as an operation."""
    deepest = max((e.member.level for e in added), default=0)
    if asked is not None:
        if asked.level < deepest:
            beyond = next(e.member for e in added if e.member.level == deepest)
            raise UsageError(
                f"{beyond.name} was operated on further than {asked.name}: its delta has no place there",
                "--onto",
                f"leave --onto out, or give --onto {beyond.name}",
            )
        return asked
    candidates = [e for e in added if e.member.level == deepest]
    if deepest == 0:
        candidates = [e for e in candidates if _rows(e.member) > _rows(base) or e.member.context is not None]
    if not candidates:
        return base
    return max(candidates, key=lambda e: (e.member.context is not None, e.weight.size)).member


def _rows(member: Member) -> int:
    return member.checkpoint.tensor(member.family.embedding).shape[0]


def _met(member: Member, base: Member, target: Member) -> Member:
    """A model without lineage whose tokens stand elsewhere than the base's, with where they stand. What is told of
    blocks alone says nothing of rows."""
    one, other = base.checkpoint, member.checkpoint
    if (member.steps and not _told_of_blocks(member)) or one.digest == other.digest:
        return member
    if _rows(base) == _rows(member) and same_files(one.path, other.path):
        return member
    here, there = vocabulary_of(one), vocabulary_of(other)
    if here is None or there is None:
        if _rows(base) == _rows(member):
            return member
        lacking = base if here is None else member
        raise SurgeonError(
            f"{member.name} has {_rows(member)} rows and {base.name} {_rows(base)}, and {lacking.name} has no "
            "tokenizer to match them by",
            str(lacking.checkpoint.path),
            "put the tokenizer's files beside the weights",
        )
    if here.refined_by(there):
        return member
    met = meet(here, there)
    return member if met.same and _rows(base) == _rows(member) else replace(member, met=met)


def _told_of_blocks(member: Member) -> bool:
    """Whether all that is known of how the model came from the base are the blocks that a person named."""
    lineage = member.checkpoint.lineage
    return (
        len(member.steps) == 1
        and "assumed" in member.steps[0].settings
        and member.steps[0].blocks is not None
        and (lineage is None or member.steps[0] not in list(lineage.chain()))
    )


def _with_own_rows(target: Member, base: Member) -> Member:
    """A target whose rows are not the base's, and no lineage says why: the rows that meet are the base's, the others
    its own."""
    if target.met is None:
        return target
    here, there = vocabulary_of(base.checkpoint), vocabulary_of(target.checkpoint)
    assert here is not None and there is not None
    step = assumed_rows(target.family, meet(there, here))
    return replace(target, met=None, steps=(*target.steps, step))


def _with_roles(base: Member, target: Member, added: Sequence[Weighted]) -> Members:
    """One role a checkpoint: what is given twice (as base, --add or --onto, or under two adapters) is one input."""
    settle = Settling([replace(target, role="model"), replace(base, role="base"), *(e.member for e in added)])
    base, target = settle(base), settle(target)
    weighted = tuple(Weighted(settle(e.member), e.weight) for e in added)
    return Members(base, target, weighted, tuple(settle.inputs))


class Settling:
    """Gives models their roles, by digest of their checkpoints, and the tensors that their adapters change.

    The first one is the plan's "model"; a role "base" is kept. inputs: of the plan, once all are settled.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._roles: dict[str, str] = {}
        self._done: dict[str, Member] = {}
        self.inputs: list[Input] = []
        for member in members:
            digest = member.checkpoint.digest
            if digest not in self._roles:
                kept = member.role if member.role in ("model", "base") else f"tuned{len(self._roles)}"
                self._roles[digest] = kept if self._roles else "model"
                name = member.name if member.adapter is None else member.name.rpartition("+")[0]
                self.inputs.append(Input(self._roles[digest], member.checkpoint.path, digest, name))

    def __call__(self, member: Member) -> Member:
        if member.digest not in self._done:
            self._done[member.digest] = self._settled(member)
        return self._done[member.digest]

    def _settled(self, member: Member) -> Member:
        member = replace(member, role=self._roles[member.checkpoint.digest])
        if member.folder is None:
            return member
        from surgeon.adapters.apply import applied

        label = f"adapter{len(self.inputs)}"
        found = applied(member.checkpoint, member.family, member.folder, label)
        for role, folder in found.inputs.items():
            # with the model that it is on: two of them may have one adapter
            name = member.name if folder == member.folder else folder.name
            self.inputs.append(Input(role, folder, Checkpoint.open(folder).digest, name))
        changed = dict(found.sources)
        if found.head is not None:
            changed[f"{member.family.declaration.head}.weight"] = found.head
        in_roles = {name: map_copies(source, partial(_in_role, member.role)) for name, source in changed.items()}
        return replace(member, adapter_role=label, changed=in_roles)


def _in_role(role: str, copy: Copy) -> Copy:
    return replace(copy, model=role) if copy.model == "model" else copy
