"""surgeon merge METHOD: models of one shape, without a base (linear, slerp)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref, registry
from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.sidecars import sidecars
from surgeon.data.numbers import Count
from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.ancestry import Member
from surgeon.merge.output import borrowed, is_float
from surgeon.merge.place import place_of
from surgeon.merge.weights import parse_weight
from surgeon.ops.output_dtype import dtype_code, fitted, with_dtype
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, Apply, Copy, Input, Plan, Source
from surgeon.progress import SILENT, Progress


class MergeModelsSettings(BaseModel):
    """The options of `surgeon merge METHOD OUT MODEL[=WEIGHT] ...`; option: of the method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(description="linear, slerp, ... (`surgeon methods merge`).")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    models: list[str] = Field(min_length=1, description="Models of one shape, MODEL or MODEL=WEIGHT.")
    dtype: str | None = Field(None, description="Stored type: float32, bfloat16, float16 [as the model's].")
    option: dict[str, Any] = Field(default_factory=dict, description="A keyword of the method; repeatable.")
    seed: int = Field(0, description="Seed of what is drawn.")
    shard_bytes: Count | None = Field(None, gt=0, description="The size that a shard does not exceed.")


def plan_merge_models(settings: MergeModelsSettings, progress: Progress = SILENT) -> Plan:
    """The merged model; config, tokenizer and other files are those of the first. Models must agree in all shapes.

    Raises UsageError on wrong options, SurgeonError on models of different shapes.
    """
    method = registry.get("merge", settings.method)
    if "tensors" not in method.supplied:
        raise UsageError(
            f"{settings.method} needs a base",
            "METHOD",
            f"use: surgeon merge-task-vectors BASE OUT --method {settings.method}",
        )
    method.bind(settings.option)
    code = dtype_code(settings.dtype)
    weighted = _open(settings)
    first = weighted[0][0]
    family = family_of(first.checkpoint)
    _check_alike([member for member, _ in weighted], family)
    if method.trait("COMMUTATIVE", False):  # one sum, whatever the order they are given in
        weighted.sort(key=lambda entry: entry[0].checkpoint.digest)
    members = [member for member, _ in weighted]
    inputs = {member.role: member.checkpoint for member in members}
    tensors = []
    for name in first.checkpoint.tensors:
        merged = is_float(name, members)
        source = _source(name, weighted, family, settings, method) if merged else Copy(first.role, name)
        tensors.append(fitted(name, source, first.checkpoint, code if merged else None, inputs))
    files, carried, origin = borrowed(first, [(m, w) for m, w in weighted if m is not first])
    names = {member.role: member.name for member in members}
    for name, role in origin.items():
        progress.say(f"{name} is taken from {names[role]}: {first.name} has none")
    plain = settings.model_dump(mode="json", exclude={"out", "models", "seed"}, exclude_defaults=True)
    described = plain | {
        "models": [{"digest": m.checkpoint.digest, "weight": w} for m, w in weighted],
        "first": {"digest": first.checkpoint.digest},
    }
    ordered = [first, *(m for m in members if m is not first)]
    return Plan(
        operation="merge",
        settings=described,
        seed=settings.seed,
        inputs=tuple(Input(m.role, m.checkpoint.path, m.checkpoint.digest, m.name) for m in ordered),
        tensors=tuple(tensors),
        config=with_dtype(first.checkpoint.config, code),
        lineage=Lineage(
            operation="merge",
            kind="training",
            settings=described,
            seed=settings.seed,
            merge=described | {"files_from": origin},
        ),
        files=files,
        carried=dict.fromkeys(sidecars(first.checkpoint.path), first.role) | carried,
        shard_bytes=settings.shard_bytes or DEFAULT_SHARD_BYTES,
    )


def _source(
    name: str,
    weighted: list[tuple[Member, float]],
    family: Family,
    settings: MergeModelsSettings,
    method: registry.Method,
) -> Source:
    weights = [weight for _, weight in weighted]
    place = place_of(name, family) if "place" in method.supplied else None
    same_as = method.trait("same_as")
    number = None if same_as is None else same_as(weights, place, **method.bind(settings.option))
    if number is not None:
        return Copy(weighted[number][0].role, name)
    options: Mapping[str, Any] = {"method": settings.method, "weights": weights, "options": dict(settings.option)}
    if place is not None:
        options = {**options, "place": place}
    return Apply("kernel:merge", tuple(Copy(member.role, name) for member, _ in weighted), options)


def _open(settings: MergeModelsSettings) -> list[tuple[Member, float]]:
    opened = []
    for number, text in enumerate(settings.models):
        name, weight = parse_weight(text)
        ref = model_ref.resolve(name)
        if ref.adapter is not None:
            raise SurgeonError(
                "a merge is of whole models", text, "fold the adapter first: surgeon fold-adapter MODEL+ADAPTER OUT"
            )
        role = "model" if number == 0 else f"model{number}"
        opened.append((Member(role, ref.name, Checkpoint.open(ref.path)), weight))
    return opened


def _check_alike(members: list[Member], family: Family) -> None:
    first = members[0]
    shapes = {name: tensor.shape for name, tensor in first.checkpoint.tensors.items()}
    for member in members[1:]:
        other = family_of(member.checkpoint)
        if other.model_type != family.model_type or other.tied != family.tied:
            raise SurgeonError(
                f"{first.name} ({family.model_type}) and {member.name} ({other.model_type}) are not of one kind, "
                "or one ties its head to the embedding and the other does not",
                str(member.checkpoint.path),
                "merge models of one form",
            )
        found = {name: tensor.shape for name, tensor in member.checkpoint.tensors.items()}
        for name in sorted(shapes.keys() | found.keys()):
            if shapes.get(name) != found.get(name):
                here, there = shapes.get(name, "absent"), found.get(name, "absent")
                raise SurgeonError(
                    f"{name!r} is {here} in {first.name}, {there} in {member.name}",
                    str(member.checkpoint.path),
                    "models of different shapes meet by lineage only: surgeon merge-task-vectors",
                )
