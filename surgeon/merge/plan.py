"""merge-task-vectors: the base and weighted task vectors, aligned by lineage onto the most operated-on model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from surgeon import registry
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, Parent
from surgeon.checkpoint.sidecars import FOREIGN_TOKENIZERS, SURGEON_DIR, sidecars
from surgeon.errors import UsageError
from surgeon.merge.added_tokens import AddedRows, added_rows
from surgeon.merge.align import Alignment
from surgeon.merge.ancestry import Member, begins
from surgeon.merge.chat_files import ChatFiles, chat_files
from surgeon.merge.chosen import check_onto, chosen_method
from surgeon.merge.members import Members, Opening, open_members
from surgeon.merge.missing_tokens import refuse_all_missing
from surgeon.merge.one_token_a_row import check_free, check_one_token_a_row
from surgeon.merge.options import PlacedOptions, check_numbers
from surgeon.merge.output import drawn_as, is_merged, one_matrix
from surgeon.merge.pieces import attachments
from surgeon.merge.place import place_of
from surgeon.merge.settings import MergeSettings as MergeSettings  # the settings of the operation that is planned here
from surgeon.merge.special_tokens import Special, special_tokens
from surgeon.merge.three_way import Voices
from surgeon.ops.output_dtype import dtype_code, fitted, with_dtype
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, Apply, Copy, OutTensor, Plan, Source, Zeros
from surgeon.progress import SILENT, Progress


@dataclass(frozen=True)
class Aligned:
    """The models of a merge with everything that meets: what the plan, the measures and the search start from."""

    members: Members
    alignment: Alignment
    special: Special

    @cached_property
    def inputs(self) -> dict[str, Checkpoint]:
        return {entry.role: Checkpoint.open(entry.path) for entry in self.members.inputs}

    @cached_property
    def names(self) -> list[str]:
        """Of the output's tensors."""
        names = list(self.alignment.target.checkpoint.tensors)
        return sorted({*names, self.alignment.head}) if self.alignment.untie else names

    def check_tokens(self) -> None:
        """Refuse models with tokens that the output would lack."""
        refuse_all_missing(self.members.target, [(e.member, e.weight) for e in self.members.added], self.special.added)

    def matrix(self, name: str) -> str:
        """The name by which the tensor is merged."""
        return name if self.alignment.untie else one_matrix(name, self.alignment.target)

    def merges(self, name: str) -> bool:
        """Whether the tensor is merged (floating point, not a buffer)."""
        return is_merged(name, [self.members.target, *self.members.all])


def plan_merge(settings: MergeSettings, progress: Progress = SILENT) -> Plan:
    """base + scale x combined deltas, float64 from the checkpoints, one rounding at the end.

    The base is the model before anything was done to it; a tuned model may have been deepened or given new rows
    since. Where the formula reduces to one model its bytes are copied. Raises UsageError on wrong options,
    SurgeonError on models that do not meet.
    """
    if settings.search:
        raise UsageError(
            "this plans a merge of given weights", "search", "surgeon.search.plan.plan_merge_searched finds them first"
        )
    method, options = chosen_method(settings)
    code = dtype_code(settings.dtype)
    aligned = align(settings, progress)
    aligned.check_tokens()
    members, alignment = aligned.members, aligned.alignment
    check_onto(settings, method)
    if any(entry.member.digest == members.base.digest for entry in members.added):
        progress.say(f"one of the models added is {members.base.name} itself: its delta is zero and changes nothing")
    target = members.target
    roles = {alignment.family.role(aligned.matrix(name)) for name in aligned.names}
    options.check(roles)
    for entry in members.added:
        entry.weight.check(roles, f"--add {entry.member.name}")
    places = [place_of(aligned.matrix(name), alignment.family) for name in aligned.names]
    check_numbers(method, members.added, options, places)
    tensors = [_tensor(aligned, name, settings, method, options, code) for name in aligned.names]
    chat = None if settings.chat is None else members.of(settings.chat)
    others = [(e.member, e.weight) for e in members.added if e.weight.adds and e.member is not target]
    files = chat_files(
        Voices(members.base, target, others, chat), {content: i for content, (i, _) in aligned.special.added.items()}
    )
    more = added_rows(alignment, aligned.special, files.files)
    for what, name in files.origin.items():
        progress.say(f"{what} is that of {name}")
    return _plan(settings, aligned, options, tensors, files, more, code)


def align(settings: MergeSettings, progress: Progress = SILENT) -> Aligned:
    """The models opened and aligned, with the rows that are taken whole. Raises as plan_merge does."""
    how = Opening(settings.lineage, settings.blocks, settings.any_base)
    members = open_members(settings.base, settings.add, settings.onto, how)
    untied = [m.name for m in members.all if not m.is_tied()]
    if settings.untie and not untied:
        raise UsageError("no model has a head of its own", "--untie", "leave --untie out")
    alignment = Alignment(members.base, members.target, settings.new_blocks, settings.new_rows, settings.untie)
    alignment.check_positions(members.all)
    aligned = Aligned(members, alignment, Special())
    for member in (e.member for e in members.added if e.member.twice):
        progress.say(
            f"{len(member.twice):,} new tokens of {member.name}, as {member.twice[0]!r}, were learned by another "
            f"model too: their rows are those of {members.target.name}, without what {member.name} changed in them"
        )
    weighted = [(e.member, e.weight) for e in members.added]
    check_one_token_a_row(members.base, members.target, weighted)
    if settings.special_tokens == "merged":
        return aligned
    special = special_tokens(alignment, weighted, aligned.inputs)
    check_free(members.target, weighted, special.added)
    for line in special.lines():
        progress.say(line)
    return Aligned(members, replace(alignment, taken=special.taken, rows=special.rows), special)


def _tensor(
    aligned: Aligned, name: str, settings: MergeSettings, method: registry.Method, options: PlacedOptions,
    code: str | None,
) -> OutTensor:  # fmt: skip
    alignment, target = aligned.alignment, aligned.members.target
    source: Source = Copy(target.role, name)
    merged = aligned.merges(name)
    if merged:
        matrix = aligned.matrix(name)
        source = drawn_as(matrix, name, _source(aligned, matrix, settings, method, options))
    like = alignment.family.embedding if name not in target.checkpoint.tensors else name
    out = fitted(name, source, target.checkpoint, code if merged else None, aligned.inputs, like)
    if alignment.rows is not None and alignment.is_vocabulary(name):
        return replace(out, shape=(alignment.rows, *out.shape[1:]))
    return out


def _source(
    aligned: Aligned, name: str, settings: MergeSettings, method: registry.Method, options: PlacedOptions
) -> Source:
    """The merged tensor: a plain copy where the formula reduces to one model, else one Apply."""
    alignment = aligned.alignment
    place = place_of(name, alignment.family)
    here = options.at(place)
    scale = float(here.get("scale", 1.0))
    onto = alignment.target if method.trait("ONTO_WHOLE", False) else None
    every = method.trait("EVERY_DELTA", False)
    found: list[tuple[Member, float, Source]] = []
    for entry in aligned.members.added:
        weight = entry.weight.at(place)
        if onto is not None and entry.member.digest == onto.digest:
            raise UsageError(f"{onto.name} counts in full already", "--add", f"leave --add {onto.name} out")
        delta = alignment.delta(entry.member, name) if weight * scale != 0 or every else None
        if delta is not None or every:
            found.append((entry.member, weight, Zeros() if delta is None else delta))
    roles = {entry.member.digest: entry.member.label for entry in aligned.members.added}
    reference = alignment.reference(name)
    own = None if onto is None else alignment.delta(onto, name)
    if onto is not None and own is not None:
        reference = alignment.whole(onto, name)
    if all(delta == Zeros() for _, _, delta in found):
        return reference
    same_as = method.trait("same_as")
    number = None if same_as is None else same_as([w for _, w, _ in found], **method.bind(here))
    if number is not None and own is None:
        return alignment.whole(found[number][0], name)
    if method.trait("LINEAR", False) and own is None and len(found) == 1 and found[0][1] * scale == 1:
        return alignment.whole(found[0][0], name)
    return Apply(
        "kernel:merge",
        (reference, *(delta for _, _, delta in found)),
        {
            "method": settings.method,
            "weights": [weight for _, weight, _ in found],
            "models": [roles[member.digest] for member, _, _ in found],
            "options": here,
        },
    )


def _plan(
    settings: MergeSettings, aligned: Aligned, options: PlacedOptions, tensors: list[OutTensor], files: ChatFiles,
    more: AddedRows, code: str | None,
) -> Plan:  # fmt: skip
    members, target = aligned.members, aligned.members.target
    tables = attachments(tensor.source for tensor in tensors)
    kept = [n for n in sidecars(target.checkpoint.path) if n not in {f"{SURGEON_DIR}/{t}" for t in tables}]
    gone = {*files.files, *files.dropped, *more.files}
    carried = {name: target.role for name in kept if name not in gone} | files.carried
    if more.files:
        carried = {name: role for name, role in carried.items() if name not in FOREIGN_TOKENIZERS}
    described = _described(settings, members, options)
    config = with_dtype(target.checkpoint.config, code) | files.config | more.config
    if aligned.alignment.untie:
        config["tie_word_embeddings"] = False
    said: dict[str, Any] = {"files_from": dict(files.origin)}
    if aligned.special.names:
        said["tokens_from"] = dict(aligned.special.names)
    folder = target.tables_folder()
    return Plan(
        operation="merge-task-vectors",
        settings=described,
        seed=settings.seed,
        inputs=members.inputs,
        tensors=tuple(tensors),
        config=config,
        lineage=Lineage(
            operation="merge-task-vectors",
            kind="surgery" if more.rows is not None else "training",
            settings=described,
            seed=settings.seed,
            rows=more.rows,
            initial=more.initial,
            merge=described | said,
        ),
        files=files.files | more.files,
        carried=carried,
        attachments={name: (folder / name).read_bytes() for name in tables} | more.tables,
        shard_bytes=settings.shard_bytes or DEFAULT_SHARD_BYTES,
        told=_told(members),
    )


def _told(members: Members) -> dict[str, Lineage]:
    """The history of a target that has none of its own, or none that leads to the base, as far as it is known: the
    output descends from the base."""
    target = members.target
    own = target.checkpoint.lineage
    known = own is not None and not any("assumed" in step.settings for step in target.steps)
    known = known and not (target.steps and own is not None and begins(own))
    if known or target.digest == members.base.digest:
        return {}
    base = members.base
    parent = Parent(
        role="model", name=base.name, path="", digest=base.checkpoint.digest, lineage=base.checkpoint.lineage
    )
    for step in target.steps:
        told = step.model_copy(update={"parents": [parent]})
        parent = Parent(role="model", name=target.name, path="", digest="", lineage=told)
    if not target.steps:
        told = Lineage(operation="training", kind="training", parents=[parent])
    return {target.role: told}


def _described(settings: MergeSettings, members: Members, options: PlacedOptions) -> dict[str, Any]:
    """The settings by digest, not by path: the same merge has the same record wherever its inputs lie."""
    plain = settings.model_dump(
        mode="json", exclude={"base", "out", "add", "onto", "seed", "chat", "lineage"}, exclude_defaults=True
    )
    given = {name: value for name, value in options.described().items() if name != "scale"}
    if given:
        plain["option"] = given
    if settings.chat is not None:
        plain["chat"] = _named(members.of(settings.chat))
    if settings.lineage is not None:
        plain["lineage"] = True
    models: list[Mapping[str, Any]] = [
        _named(e.member) | {"weight": e.weight.plain(), "surgery": e.member.level} for e in members.added
    ]
    return plain | {
        "method": settings.method,
        "scale": settings.scale,
        "base": _named(members.base),
        "onto": _named(members.target),
        "add": models,
    }


def _named(member: Member) -> dict[str, str]:
    plain = {"digest": member.checkpoint.digest}
    return plain if member.adapter is None else plain | {"adapter": member.adapter}
