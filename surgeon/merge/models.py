"""surgeon merge METHOD: models of one shape, without a base (linear, slerp, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgeon import registry
from surgeon.arch.family import Family
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.sidecars import sidecars
from surgeon.data.numbers import Count
from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.ancestry import Member
from surgeon.merge.chat_files import chat_files
from surgeon.merge.computation import check_one_computation
from surgeon.merge.members import Settling, Weighted, open_member
from surgeon.merge.naming import told_apart
from surgeon.merge.one_token_a_row import check_named
from surgeon.merge.options import PlacedOptions, check_numbers, placed_options
from surgeon.merge.output import drawn_as, is_merged, one_matrix
from surgeon.merge.place import place_of
from surgeon.merge.sequence import Policy, factors_of, plan_sequence
from surgeon.merge.three_way import Voices
from surgeon.merge.vocabulary import meet, same_files, vocabulary_of
from surgeon.merge.weights import parse_weight
from surgeon.ops.output_dtype import dtype_code, fitted, with_dtype
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, Apply, Copy, Plan, Source
from surgeon.progress import SILENT, Progress

SEQUENCE = "sequence"


class MergeModelsSettings(BaseModel):
    """The options of `surgeon merge METHOD OUT MODEL[=WEIGHT] ...`; option: of the method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(description="linear, slerp, ... (`surgeon methods merge`), or sequence.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    models: list[str] = Field(
        min_length=1, description="Models of one shape, MODEL, MODEL+ADAPTER or MODEL=WEIGHT; a weight may vary."
    )
    dtype: str | None = Field(None, description="Stored type: float32, bfloat16, float16 [as the model's].")
    option: dict[str, Any] = Field(default_factory=dict, description="A keyword of the method; repeatable.")
    policy: Policy | None = Field(None, description="Of sequence: what the models of the stream were trained from.")
    weight: float | None = Field(None, description="Of sequence: the share of each model in the merge so far.")
    seed: int = Field(0, description="Seed of what is drawn.")
    shard_bytes: Count | None = Field(None, gt=0, description="The size that a shard does not exceed.")


def plan_merge_models(settings: MergeModelsSettings, progress: Progress = SILENT) -> Plan:
    """The merged model (for `sequence`: see plan_sequence); config, tokenizer and other files are those of the first,
    and what it lacks of chat template and generation config that of the others. Models must agree in all shapes and in
    their tokens.

    Raises UsageError on wrong options, SurgeonError on models of different shapes.
    """
    if settings.method == SEQUENCE:
        check_sequence(settings)
        same = {key: getattr(settings, key) for key in ("dtype", "seed", "shard_bytes")}
        return plan_sequence(settings.models, settings.out, settings.policy, settings.weight, progress, **same)
    method, options = chosen_method(settings)
    code = dtype_code(settings.dtype)
    settle, weighted = _open(settings)
    first = weighted[0].member
    check_alike([entry.member for entry in weighted])
    check_named(first, [(entry.member, entry.weight) for entry in weighted])
    family, head = first.family, f"{first.family.declaration.head}.weight"
    names = list(first.checkpoint.tensors)
    two = family.tied and not first.is_tied()  # adapters made two matrices of the one
    if two and head not in names:
        names.append(head)
    matrices = {name: one_matrix(name, first) for name in names}
    roles = {family.role(matrix) for matrix in matrices.values()}
    options.check(roles)
    for entry in weighted:
        entry.weight.check(roles, entry.member.name)
    if method.trait("COMMUTATIVE", False):  # one sum, whatever the order they are given in
        weighted.sort(key=lambda entry: entry.member.digest)
    check_numbers(method, weighted, options, [place_of(matrix, family) for matrix in matrices.values()])
    members = [entry.member for entry in weighted]
    inputs = {entry.role: Checkpoint.open(entry.path) for entry in settle.inputs}
    tensors = []
    for name, matrix in matrices.items():
        merged = is_merged(name, members)
        source: Source = Copy(first.role, name)
        if merged:
            source = drawn_as(matrix, name, _source(matrix, weighted, family, method, options))
        like = name if name in first.checkpoint.tensors else family.embedding
        tensors.append(fitted(name, source, first.checkpoint, code if merged else None, inputs, like))
    others = [(e.member, e.weight) for e in weighted if e.weight.adds and e.member is not first]
    files = chat_files(Voices(None, first, others), {})
    for what, name in files.origin.items():
        progress.say(f"{what} is that of {name}: {first.name} has none")
    described = _described(settings, weighted, first, options)
    return Plan(
        operation="merge",
        settings=described,
        seed=settings.seed,
        inputs=tuple(settle.inputs),
        tensors=tuple(tensors),
        config=with_dtype(first.checkpoint.config, code)
        | files.config
        | ({"tie_word_embeddings": False} if two else {}),
        lineage=Lineage(
            operation="merge",
            kind="training",
            settings=described,
            seed=settings.seed,
            merge=described | {"files_from": files.origin},
        ),
        files=files.files,
        carried={n: first.role for n in sidecars(first.checkpoint.path) if n not in {*files.files, *files.dropped}}
        | files.carried,
        shard_bytes=settings.shard_bytes or DEFAULT_SHARD_BYTES,
    )


def check_sequence(settings: MergeModelsSettings) -> None:
    """Refuse words that do not make a sequence, before a model is opened. Raises UsageError."""
    if settings.option:
        raise UsageError("sequence has no options", "--option", "use --policy and --weight")
    factors_of(settings.models, settings.policy, settings.weight)


def chosen_method(settings: MergeModelsSettings) -> tuple[registry.Method, PlacedOptions]:
    """The method with its options, where it is not the sequence. Raises UsageError."""
    for name in ("policy", "weight"):
        if getattr(settings, name) is not None:
            raise UsageError(f"--{name} is of sequence", f"--{name}", f"leave it out, or: surgeon merge {SEQUENCE}")
    method = registry.get("merge", settings.method)
    if "tensors" not in method.supplied and not method.trait("BASE_OPTIONAL", False):
        raise UsageError(
            f"{settings.method} needs a base",
            "METHOD",
            f"use: surgeon merge-task-vectors BASE OUT --method {settings.method}",
        )
    return method, placed_options(method, settings.option)


def _source(
    name: str, weighted: Sequence[Weighted], family: Family, method: registry.Method, options: PlacedOptions
) -> Source:
    place = place_of(name, family)
    weights, here = [entry.weight.at(place) for entry in weighted], options.at(place)
    values = [entry.member.changed.get(name, Copy(entry.member.role, name)) for entry in weighted]
    same_as = method.trait("same_as")
    number = None if same_as is None else same_as(weights, **method.bind(here))
    if number is not None:
        return values[number]
    roles = [entry.member.label for entry in weighted]
    settings: dict[str, Any] = {"method": method.name, "weights": weights, "models": roles, "options": here}
    if "tensors" not in method.supplied:
        settings["base"] = False
    return Apply("kernel:merge", tuple(values), settings)


def _open(settings: MergeModelsSettings) -> tuple[Settling, list[Weighted]]:
    entries = [parse_weight(text) for text in settings.models]
    roles = ["model", *(f"tuned{number}" for number in range(1, len(entries)))]
    members = told_apart([open_member(name, role) for (name, _), role in zip(entries, roles, strict=True)])
    opened = [Weighted(member, weight) for member, (_, weight) in zip(members, entries, strict=True)]
    settle = Settling([entry.member for entry in opened])
    return settle, [replace(entry, member=settle(entry.member)) for entry in opened]


def check_alike(members: Sequence[Member]) -> None:
    """Refuse models of different shapes or tokens: without a base nothing says what their difference means."""
    first = members[0]
    shapes = {name: tensor.shape for name, tensor in first.checkpoint.tensors.items()}
    for member in members[1:]:
        if member.family.model_type != first.family.model_type or member.is_tied() != first.is_tied():
            raise SurgeonError(
                f"{first.name} ({first.family.model_type}) and {member.name} ({member.family.model_type}) are not of "
                "one kind, or one ties its head to the embedding and the other does not",
                str(member.checkpoint.path),
                "merge models of one form",
            )
        found = {name: tensor.shape for name, tensor in member.checkpoint.tensors.items()}
        for name in sorted(shapes.keys() | found.keys()):
            if one_matrix(name, first) != name:  # stored a second time or not
                continue
            if shapes.get(name) != found.get(name):
                here, there = shapes.get(name, "absent"), found.get(name, "absent")
                raise SurgeonError(
                    f"{name!r} is {here} in {first.name}, {there} in {member.name}",
                    str(member.checkpoint.path),
                    "models of different shapes meet by lineage only: surgeon merge-task-vectors",
                )
        check_one_computation(first, member)
        _check_tokens(first, member)


def _check_tokens(first: Member, member: Member) -> None:
    if same_files(first.checkpoint.path, member.checkpoint.path):
        return
    one, other = vocabulary_of(first.checkpoint), vocabulary_of(member.checkpoint)
    if one is None or other is None or one.refined_by(other) or other.refined_by(one) or meet(one, other).same:
        return
    raise SurgeonError(
        f"the tokens of {first.name} and {member.name} stand at different rows",
        f"{member.checkpoint.path}/tokenizer.json",
        "models with different vocabularies meet by their tokens in surgeon merge-task-vectors only",
    )


def _described(
    settings: MergeModelsSettings, weighted: Sequence[Weighted], first: Member, options: PlacedOptions
) -> dict[str, Any]:
    plain = settings.model_dump(mode="json", exclude={"out", "models", "seed"}, exclude_defaults=True)
    if options.described():
        plain["option"] = options.described()

    def named(member: Member) -> dict[str, str]:
        found = {"digest": member.checkpoint.digest}
        return found if member.adapter is None else found | {"adapter": member.adapter}

    models = [{**named(entry.member), "weight": entry.weight.plain()} for entry in weighted]
    return plain | {"models": models, "first": named(first)}
