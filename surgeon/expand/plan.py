"""expand-layers: a deeper model from copies of some blocks, by default one that computes what it computed before."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref, registry
from surgeon.arch.config_blocks import remap_blocks
from surgeon.arch.declared import check_declared, is_declared
from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.digest import json_digest
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import BlockMap, BlockProbe, ConfigBefore, Lineage, NewBlock
from surgeon.checkpoint.sidecars import SURGEON_DIR, sidecars
from surgeon.data.numbers import Count
from surgeon.data.source import corpus_digest, parse_corpus
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.fill import Filled, Gap, gaps
from surgeon.expand.layout import Layout, lay_out_blocks
from surgeon.expand.selection import Selection
from surgeon.expand.shards import files_of, kept_shards
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, Copy, Input, OutTensor, Plan, Source, source_to_json
from surgeon.progress import SILENT, Progress

MOST = 8  # times as deep: beyond that a number is a slip


class ExpandSettings(BaseModel):
    """The options of `surgeon expand-layers`. at: blocks to copy, short for select="at". option: of the selector;
    option_fill: of the fill."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="A local folder, or org/name[@revision] of the hub.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    add: int | None = Field(None, gt=0, description="How many blocks to add.")
    select: str = Field("uniform", description="Which blocks to copy: a selector (`surgeon methods selector`).")
    at: list[int] | None = Field(None, description="Blocks to copy, each right after itself: 3,7,11.")
    fill: str = Field("auto", description="What a new block starts as (`surgeon methods fill`).")
    layout: Layout = Field("interleave", description="Each copy after its source, or all copies as one block.")
    probe: str | None = Field(None, description="A corpus, for selectors that probe the model.")
    option: dict[str, Any] = Field(default_factory=dict, description="A keyword of the selector; repeatable.")
    option_fill: dict[str, Any] = Field(default_factory=dict, description="A keyword of the fill; repeatable.")
    in_place: bool = Field(
        False,
        description="Change MODEL itself (OUT is the same folder): old shards only get new headers. Safe against a "
        "kill, not against a power cut: for those who have another copy.",
    )
    undo: bool = Field(False, description="Take the new blocks of the last expansion out again; no other choices.")
    seed: int = Field(0, description="Seed of what is drawn.")
    shard_bytes: Count | None = Field(
        None, gt=0, description="The size that a shard does not exceed; by default old tensors stay in their shards."
    )
    link: bool = Field(
        False,
        description="Shards that stay as they are become second names of MODEL's files, with no byte copied: a later "
        "edit of one in place changes both.",
    )


def plan_expand(settings: ExpandSettings, progress: Progress = SILENT) -> Plan:
    """The plan of a deeper model. Raises UsageError on wrong options, SurgeonError on a model it cannot take."""
    reference = model_ref.resolve(settings.model)
    if settings.link and settings.shard_bytes is not None:
        raise UsageError("--link keeps the shards of MODEL", "--shard-bytes", "leave one of the two out")
    if settings.in_place:
        _check_in_place(settings, reference.path)
    if reference.adapter is not None:
        raise UsageError(
            "blocks of a model with an adapter cannot be copied", settings.model, "fold it first: surgeon fold-adapter"
        )
    checkpoint = Checkpoint.open(reference.path)
    family = family_of(checkpoint)
    if settings.undo:
        from surgeon.expand.undo import plan_undo

        return plan_undo(settings, reference, checkpoint, family)
    _check_whole(checkpoint, family)
    selected, probe = _select(settings, checkpoint, family, progress)
    placed = lay_out_blocks(family.depth, selected, settings.layout)
    if len(placed) > MOST * family.depth:
        raise UsageError(
            f"{len(placed)} blocks are more than {MOST} times the {family.depth} that there are",
            "--add",
            "methods that deepen at most quadruple (stacking); expand the result again if this is meant",
        )
    config = remap_blocks(checkpoint.config, [p.source for p in placed], family)
    if family.declaration.derived:
        from surgeon.expand.proof import prove

        family = prove(checkpoint, family, placed)
    fill = registry.get("fill", settings.fill)
    fill.bind(settings.option_fill)
    filled = {
        number: _fill(fill, checkpoint, family, placed[number].source, gap, settings.option_fill)
        for number, gap in gaps(placed).items()
    }
    tensors = [_kept(checkpoint, name, name) for name in family.outside()]
    kept = {name: name for name in family.outside()}
    new: list[NewBlock] = []
    initial: dict[str, Any] = {}
    for number, block in enumerate(placed):
        sources = filled[number].sources if block.new else {}
        for name in family.blocks[block.source]:
            target = family.rename(name, number)
            source = sources.get(name, Copy("model", name))
            tensors.append(_kept(checkpoint, target, name, source))
            if not block.new:
                kept[name] = target
            if source != Copy("model", name):
                initial[target] = source_to_json(source)
        if block.new:
            multipliers = dict(filled[number].lr_multipliers)
            new.append(NewBlock(block=number, source=block.source, fill=settings.fill, lr_multipliers=multipliers))
    before = ConfigBefore(
        values={key: value for key, value in checkpoint.config.items() if config.get(key) != value},
        absent=[key for key in config if key not in checkpoint.config],
    )
    plain = settings.model_dump(
        mode="json", exclude={"model", "out", "seed", "probe", "in_place"}, exclude_defaults=True
    )
    if settings.probe is not None:
        corpus = parse_corpus(settings.probe, weighted=False)
        plain["probe"] = {"name": corpus.name, "digest": corpus_digest(corpus)}
    return Plan(
        operation="expand-layers",
        settings=plain,
        seed=settings.seed,
        inputs=(Input("model", reference.path, lambda: checkpoint.digest, reference.name),),
        tensors=tuple(tensors),
        config=config,
        lineage=Lineage(
            operation="expand-layers",
            kind="surgery",
            settings=plain,
            seed=settings.seed,
            blocks=BlockMap(
                source=[p.source for p in placed], new=new, probe=probe, before=before, files=files_of(checkpoint)
            ),
            initial=initial,
        ),
        files={} if probe is None else _plot(probe, selected),
        carried=dict.fromkeys(sidecars(reference.path), "model"),
        shard_bytes=settings.shard_bytes or DEFAULT_SHARD_BYTES,
        shards=()
        if settings.shard_bytes is not None
        else kept_shards(checkpoint, tensors, kept, settings.link or settings.in_place),
        link=settings.link,
    )


def _check_whole(checkpoint: Checkpoint, family: Family) -> None:
    """The input is what its config.json describes: the check of the output would name its tensors by other numbers."""
    shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    where = str(checkpoint.path)
    if is_declared(checkpoint.config) and not family.declaration.derived:
        check_declared(checkpoint.config, shapes, where)
        return
    from surgeon.arch.meta import check_config

    check_config(checkpoint.config, shapes, where)


def _kept(checkpoint: Checkpoint, target: str, name: str, source: Source | None = None) -> OutTensor:
    stored = checkpoint.tensor(name)
    return OutTensor(target, stored.dtype, stored.shape, source or Copy("model", name))


def _check_in_place(settings: ExpandSettings, model: Path) -> None:
    if settings.out.resolve() != model.resolve():
        raise UsageError(
            "--in-place changes MODEL itself, and OUT is another folder", "--in-place", "give MODEL twice"
        )
    for name in ("link", "undo", "shard_bytes"):
        if getattr(settings, name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"--in-place and {flag} contradict each other", flag, "leave one of the two out")


def _plot(probe: BlockProbe, selected: Sequence[int]) -> dict[str, str]:
    """The drawing of the scores, under a name that further operations on the output do not take."""
    from surgeon.expand.scores_plot import scores_svg

    digest = json_digest(probe.model_dump(mode="json")).removeprefix("sha256:")
    return {f"{SURGEON_DIR}/blocks-{digest[:12]}.svg": scores_svg(probe, selected)}


def chosen_selector(settings: ExpandSettings) -> tuple[registry.Method, dict[str, Any]]:
    """The selector with its options as they were given; `--at` is the selector at. Raises UsageError."""
    name, options = settings.select, dict(settings.option)
    if settings.at is not None:
        if "select" in settings.model_fields_set and settings.select != "at":
            raise UsageError(f"--at and --select {settings.select} contradict each other", "--at", "give one of them")
        name, options["blocks"] = "at", settings.at
    selector = registry.get("selector", name)
    if settings.probe is not None and "probe" not in selector.supplied:
        raise UsageError(f"the selector {name!r} does not probe the model", "--probe", "leave --probe out")
    return selector, options


def _select(
    settings: ExpandSettings, checkpoint: Checkpoint, family: Family, progress: Progress
) -> tuple[list[int], BlockProbe | None]:
    """The blocks to copy, ascending, and what they were chosen by where the model was probed."""
    selector, options = chosen_selector(settings)
    supply: Mapping[str, Any] = {
        "depth": family.depth,
        "count": settings.add,
        "checkpoint": checkpoint,
        "family": family,
        "probe": settings.probe,
        "seed": settings.seed,
        "progress": progress,
    }
    found = selector.call(supply, options)
    probe = found.probe if isinstance(found, Selection) else None
    selected = sorted(found.blocks if isinstance(found, Selection) else found)
    if not selected or selected[0] < 0 or selected[-1] >= family.depth:
        where = str(inspect.getsourcefile(selector.function))
        raise SurgeonError(
            f"the selector {selector.name!r} chose {selected} of {family.depth} blocks",
            where,
            "choose blocks that are there",
        )
    return selected, probe


def _fill(
    fill: registry.Method, checkpoint: Checkpoint, family: Family, block: int, gap: Gap, options: Mapping[str, Any]
) -> Filled:
    """The fill's sources, which must be one for every tensor of the block."""
    supply = {"family": family, "block": block, "gap": gap, "tensors": checkpoint.tensors}
    filled: Filled = fill.call(supply, options)
    if set(filled.sources) != set(family.blocks[block]):
        raise SurgeonError(
            f"the fill {fill.name!r} does not give one source for every tensor of block {block}",
            str(inspect.getsourcefile(fill.function)),
            "start from surgeon.expand.fill.copies(family, block)",
        )
    return filled
