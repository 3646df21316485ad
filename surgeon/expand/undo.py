"""expand-layers --undo: the new blocks of the last expansion are taken out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgeon.arch.family import Family
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import BlockMap, Lineage
from surgeon.checkpoint.sidecars import sidecars
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.shards import kept_shards, shards_before
from surgeon.model_ref import ModelRef
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, Copy, Input, OutTensor, Plan

if TYPE_CHECKING:
    from surgeon.expand.plan import ExpandSettings

CHOICES = ("add", "select", "at", "fill", "layout", "probe", "option", "option_fill")


@dataclass(frozen=True)
class Expansion:
    """The last expansion that has not been undone: its entry in the lineage, and the present numbers of its blocks."""

    step: Lineage
    added: tuple[int, ...]


def last_expansion(lineage: Lineage | None, depth: int) -> Expansion | None:
    """Where it is in the lineage of a model of this depth; steps between it and the model may be of any kind."""
    place = {block: block for block in range(depth)}  # number at the step looked at -> number now
    undone = 0
    for step in lineage.chain() if lineage is not None else ():
        if step.blocks is None:
            continue
        new = {entry.block for entry in step.blocks.new}
        if new and not undone:
            return Expansion(step, tuple(sorted(place[block] for block in new)))
        undone += -1 if new else bool(step.settings.get("undo"))
        place = {step.blocks.source[then]: now for then, now in place.items() if then not in new}
    return None


def undone_expansion(lineage: Lineage) -> Expansion | None:
    """Of an undo: the expansion that it took back."""
    parent = lineage.parents[0].lineage
    return None if parent is None or lineage.blocks is None else last_expansion(parent, _depth(parent))


def check_alone(settings: ExpandSettings) -> None:
    """Raise UsageError on choices that only add blocks."""
    for name in CHOICES:
        if name in settings.model_fields_set:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"--undo takes blocks out, {flag} is for adding some", flag, f"leave out {flag}")


def plan_undo(settings: ExpandSettings, reference: ModelRef, checkpoint: Checkpoint, family: Family) -> Plan:
    """The plan of the model without the blocks that its last expansion added; every other tensor is copied as it is
    now. Raises SurgeonError where the lineage knows of no expansion, UsageError on choices that only add blocks."""
    check_alone(settings)
    where = f"{checkpoint.path}/surgeon.json"
    found = last_expansion(checkpoint.lineage, family.depth)
    if found is None:
        raise SurgeonError("the lineage knows of no expansion to undo", where, "give a model that expand-layers made")
    kept = [block for block in range(family.depth) if block not in found.added]
    names = kept_names(family, kept)
    stored = checkpoint.tensors
    tensors = [OutTensor(new, stored[old].dtype, stored[old].shape, Copy("model", old)) for old, new in names.items()]
    plain = settings.model_dump(mode="json", exclude={"model", "out", "seed"}, exclude_defaults=True)
    return Plan(
        operation="expand-layers",
        settings=plain,
        seed=settings.seed,
        inputs=(Input("model", reference.path, lambda: checkpoint.digest, reference.name),),
        tensors=tuple(tensors),
        config=config_before(checkpoint.config, found.step, where),
        lineage=Lineage(
            operation="expand-layers",
            kind="surgery",
            settings=plain,
            seed=settings.seed,
            blocks=BlockMap(source=kept),
        ),
        carried=dict.fromkeys(sidecars(reference.path), "model"),
        shard_bytes=settings.shard_bytes or DEFAULT_SHARD_BYTES,
        link=settings.link,
        restores=found.step.parents[0].digest if found.step.parents else "",
        **_files_before(settings, found.step, checkpoint, tensors, names),
    )


def kept_names(family: Family, kept: Sequence[int]) -> dict[str, str]:
    """Name -> name without the other blocks, of every tensor outside the blocks and in the kept ones."""
    names = {name: name for name in family.outside()}
    for number, block in enumerate(kept):
        names |= {name: family.rename(name, number) for name in family.blocks[block]}
    return names


def _files_before(
    settings: ExpandSettings,
    step: Lineage,
    checkpoint: Checkpoint,
    tensors: Sequence[OutTensor],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """What of a plan says how the weights lie in files: as they did before the expansion, where that is known and they
    are as large as then, whatever steps in between (a training) made of their files; else as they lie now."""
    before = step.blocks.files if step.blocks is not None else None
    if settings.shard_bytes is not None:
        return {}
    if before is None or sum(t.nbytes for t in tensors) != before.nbytes or not shards_before(before, tensors):
        return {"shards": kept_shards(checkpoint, tensors, names, settings.link)}
    return {
        "shards": shards_before(before, tensors),
        "headers": tuple(before.headers),
        "shard_names": tuple(before.names),
        "metadata": tuple(before.metadata),
        "index": before.index,
    }


def config_before(config: Mapping[str, Any], step: Lineage, where: str) -> dict[str, Any]:
    """The configuration with what the expansion changed put back; what later steps changed stays."""
    assert step.blocks is not None
    if step.blocks.before is None:
        raise SurgeonError(
            "the lineage does not say what the expansion changed in config.json: it is of an older version",
            where,
            "use the model from before the expansion",
        )
    before = step.blocks.before
    kept = {key: value for key, value in config.items() if key not in before.absent}
    return {key: before.values.get(key, value) for key, value in kept.items()} | before.values


def _depth(lineage: Lineage) -> int:
    return next(len(step.blocks.source) for step in lineage.chain() if step.blocks is not None)
