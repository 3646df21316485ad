"""merge-task-vectors: the base and weighted task vectors, aligned by lineage onto the most operated-on model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref, registry
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.sidecars import SURGEON_DIR, sidecars
from surgeon.data.numbers import Count
from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.align import Alignment, NewRows
from surgeon.merge.ancestry import Member, surgery_since
from surgeon.merge.initial import NewBlocks
from surgeon.merge.output import borrowed, is_float
from surgeon.merge.pieces import attachments
from surgeon.merge.weights import parse_weight
from surgeon.ops.output_dtype import dtype_code, fitted, with_dtype
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, Apply, Copy, Input, OutTensor, Plan, Source
from surgeon.progress import SILENT, Progress


class MergeSettings(BaseModel):
    """The options of `surgeon merge-task-vectors`. add: MODEL or MODEL=WEIGHT; option: of the method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(description="The model that all descend from.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    add: list[str] = Field(min_length=1, description="A model made from BASE, MODEL=WEIGHT; repeatable.")
    method: str = Field("task_arithmetic", description="How deltas are combined (`surgeon methods merge`).")
    scale: float = Field(1.0, allow_inf_nan=False, description="Factor of the combined delta (lambda).")
    onto: str | None = Field(
        None, description="The model whose shape and files the output has [the most operated-on]."
    )
    new_blocks: NewBlocks = Field("none", description="What new blocks get of a delta made without them.")
    new_rows: NewRows = Field("own", description="New rows: the delta of their own model, or none.")
    dtype: str | None = Field(None, description="Stored type: float32, bfloat16, float16 [as the model's].")
    option: dict[str, Any] = Field(default_factory=dict, description="A keyword of the method; repeatable.")
    seed: int = Field(0, description="Seed of what is drawn.")
    shard_bytes: Count | None = Field(None, gt=0, description="The size that a shard does not exceed.")


def plan_merge(settings: MergeSettings, progress: Progress = SILENT) -> Plan:
    """base + scale x combined deltas, float64 from the checkpoints, one rounding at the end.

    The base is the model before anything was done to it; a tuned model may have been deepened or given new rows
    since. Where the formula reduces to one model its bytes are copied. Raises UsageError on wrong options,
    SurgeonError on models that do not meet.
    """
    method = registry.get("merge", settings.method)
    if "base" not in method.supplied:
        raise UsageError(
            f"{settings.method} merges models without a base",
            "--method",
            f"use: surgeon merge {settings.method} OUT MODEL ...",
        )
    options = dict(settings.option)
    if "scale" in options:
        raise UsageError("the scale is an option of its own", "--option scale", "use --scale")
    if "scale" in method.options or settings.scale != 1:
        options["scale"] = settings.scale
    method.bind(options)
    code = dtype_code(settings.dtype)
    base, target, weighted = _members(settings)
    alignment = Alignment(base, target, settings.new_blocks, settings.new_rows)
    members = [base, *(member for member, _ in weighted)]
    alignment.check_positions(members)
    inputs = {member.role: member.checkpoint for member in (target, *members)}
    tensors: list[OutTensor] = []
    for name in target.checkpoint.tensors:
        source: Source = Copy(target.role, name)
        merged = is_float(name, [target, *members]) and alignment.family.role(name) != "buffer"
        if merged:
            source = _source(alignment, weighted, name, settings, method, options)
        tensors.append(fitted(name, source, target.checkpoint, code if merged else None, inputs))
    files, carried, origin = borrowed(target, [(m, w) for m, w in weighted if w != 0 and m is not target])
    names = {member.role: member.name for member in members}
    for name, role in origin.items():
        progress.say(f"{name} is taken from {names[role]}: {target.name} has none")
    tables = attachments(tensor.source for tensor in tensors)
    own = dict.fromkeys(sidecars(target.checkpoint.path), target.role)
    for name in tables:
        del own[f"{SURGEON_DIR}/{name}"]
    described = _described(settings, base, target, weighted)
    return Plan(
        operation="merge-task-vectors",
        settings=described,
        seed=settings.seed,
        inputs=_inputs(base, target, weighted),
        tensors=tuple(tensors),
        config=with_dtype(target.checkpoint.config, code),
        lineage=Lineage(
            operation="merge-task-vectors",
            kind="training",
            settings=described,
            seed=settings.seed,
            merge=described | {"files_from": origin},
        ),
        files=files,
        carried=own | carried,
        attachments={name: (target.checkpoint.path / SURGEON_DIR / name).read_bytes() for name in tables},
        shard_bytes=settings.shard_bytes or DEFAULT_SHARD_BYTES,
    )


def _source(
    alignment: Alignment,
    weighted: list[tuple[Member, float]],
    name: str,
    settings: MergeSettings,
    method: registry.Method,
    options: Mapping[str, Any],
) -> Source:
    """The merged tensor: a plain copy where the formula reduces to one model, else one Apply."""
    found = []
    for member, weight in weighted:
        delta = alignment.delta(member, name) if weight * settings.scale != 0 else None
        if delta is not None:
            found.append((member, weight, delta))
    if not found:
        return alignment.reference(name)
    if method.trait("LINEAR", False) and len(found) == 1 and found[0][1] * settings.scale == 1:
        return alignment.whole(found[0][0], name)
    return Apply(
        "kernel:merge",
        (alignment.reference(name), *(delta for _, _, delta in found)),
        {"method": settings.method, "weights": [weight for _, weight, _ in found], "options": dict(options)},
    )


def _members(settings: MergeSettings) -> tuple[Member, Member, list[tuple[Member, float]]]:
    """(base, target, tuned models with their weights, in the order of their digests)."""
    base_ref, base = _open(settings.base)
    added = []
    for text in settings.add:
        name, weight = parse_weight(text)
        added.append((*_open(name), weight))
    added.sort(key=lambda entry: entry[1].digest)
    for (ref, one, _), (other_ref, other, _) in pairwise(added):
        if one.digest == other.digest:
            raise UsageError(
                f"{ref.name} and {other_ref.name} are the same model",
                "--add",
                "give it once, with the sum of the weights",
            )
    weighted = []
    for number, (ref, checkpoint, weight) in enumerate(added):
        steps = surgery_since(checkpoint, ref.name, base, base_ref.name)
        weighted.append((Member(f"tuned{number}", ref.name, checkpoint, steps), weight))
    root = Member("base", base_ref.name, base)
    target = _target(settings, root, weighted)
    # one role a checkpoint: what is given twice (as base, --add or --onto) is one input
    by_digest = {base.digest: root} | {
        target.checkpoint.digest: Member("model", target.name, target.checkpoint, target.steps)
    }
    return (
        by_digest[base.digest],
        by_digest[target.checkpoint.digest],
        [(by_digest.get(m.checkpoint.digest, m), weight) for m, weight in weighted],
    )


def _target(settings: MergeSettings, base: Member, weighted: list[tuple[Member, float]]) -> Member:
    """--onto, else the most operated-on model: of several, the one of the largest weight, then by digest."""
    deepest = max((member.level for member, _ in weighted), default=0)
    if settings.onto is not None:
        ref, checkpoint = _open(settings.onto)
        steps = surgery_since(checkpoint, ref.name, base.checkpoint, base.name)
        if len(steps) < deepest:
            beyond = next(member for member, _ in weighted if member.level == deepest)
            raise UsageError(
                f"{beyond.name} was operated on further than {ref.name}: its delta has no place there",
                "--onto",
                f"leave --onto out, or give --onto {beyond.name}",
            )
        return Member("model", ref.name, checkpoint, steps)
    if deepest == 0:
        return base
    return max(((m, w) for m, w in weighted if m.level == deepest), key=lambda entry: abs(entry[1]))[0]


def _open(text: str) -> tuple[model_ref.ModelRef, Checkpoint]:
    ref = model_ref.resolve(text)
    if ref.adapter is not None:
        raise SurgeonError(
            "task vectors are taken from whole models",
            text,
            "fold the adapter first: surgeon fold-adapter MODEL+ADAPTER OUT",
        )
    return ref, Checkpoint.open(ref.path)


def _inputs(base: Member, target: Member, weighted: list[tuple[Member, float]]) -> tuple[Input, ...]:
    members = {member.role: member for member in (target, base, *(member for member, _ in weighted))}
    return tuple(Input(role, m.checkpoint.path, m.checkpoint.digest, m.name) for role, m in members.items())


def _described(
    settings: MergeSettings, base: Member, target: Member, weighted: list[tuple[Member, float]]
) -> dict[str, Any]:
    """The settings by digest, not by path: the same merge has the same record wherever its inputs lie."""
    plain = settings.model_dump(mode="json", exclude={"base", "out", "add", "onto", "seed"}, exclude_defaults=True)
    models = [{"digest": m.checkpoint.digest, "weight": w, "surgery": m.level} for m, w in weighted]
    return plain | {
        "method": settings.method,
        "scale": settings.scale,
        "base": {"digest": base.checkpoint.digest},
        "onto": {"digest": target.checkpoint.digest},
        "add": models,
    }
