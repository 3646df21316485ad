"""fold-adapter: MODEL+ADAPTER becomes a plain checkpoint, in float64 with one rounding."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from surgeon import model_ref
from surgeon.adapters.apply import Applied, applied
from surgeon.adapters.base_check import check_base
from surgeon.adapters.weights import Weighted, weighted
from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.header import FLOATS
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.sidecars import sidecars
from surgeon.data.numbers import Count
from surgeon.errors import UsageError
from surgeon.ops.output_dtype import dtype_code, fitted, with_dtype
from surgeon.ops.plan import DEFAULT_SHARD_BYTES, Apply, Copy, Input, OutTensor, Plan, Rows, Source
from surgeon.ops.survival import change_of
from surgeon.progress import SILENT, Progress


class FoldSettings(BaseModel):
    """The options of `surgeon fold-adapter`. model: MODEL+ADAPTER. add: further adapters of the same model, ADAPTER or
    ADAPTER=WEIGHT; weight: of the first one. rounding: stochastic rounds up or down with the odds of the distance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="MODEL+ADAPTER.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    weight: float = Field(1.0, allow_inf_nan=False, description="Of the adapter.")
    add: list[str] = Field([], description="A further adapter of MODEL, ADAPTER[=WEIGHT]; repeatable.")
    dtype: str | None = Field(None, description="Stored type: float32, bfloat16, float16 [as the model's].")
    rounding: Literal["nearest", "stochastic"] = Field("nearest", description="To the stored type.")
    any_base: bool = Field(False, description="Also an adapter whose lineage names another model as its base.")
    seed: int = Field(0, description="Seed of what is drawn.")
    shard_bytes: Count | None = Field(None, gt=0, description="The size that a shard does not exceed.")


def plan_fold(settings: FoldSettings, progress: Progress = SILENT) -> Plan:
    """W + sum_i w_i (what adapter i makes of W - W) for every tensor that one changes; all others are copied.

    What PEFT computes unmerged is what is folded: a tied model whose embedding and head are changed apart gets two
    matrices, and its configuration says so. Raises UsageError without an adapter, SurgeonError on one that does not
    fit, was made for another base, or has no effect on weights alone.
    """
    reference = model_ref.resolve(settings.model)
    if reference.adapter is None:
        raise UsageError("there is no adapter to fold", settings.model, "write MODEL+ADAPTER")
    checkpoint = Checkpoint.open(reference.path)
    family = family_of(checkpoint)
    code = dtype_code(settings.dtype)
    members = [Weighted("adapter", reference.adapter.name, reference.adapter.path, settings.weight)]
    members += [weighted(text, f"adapter-{i + 2}") for i, text in enumerate(settings.add)]
    found, inputs = [], [Input("model", reference.path, checkpoint.digest, reference.name)]
    for member in members:
        check_base(member.path, checkpoint, settings.any_base, "--any-base to use it all the same")
        held = applied(checkpoint, family, member.path, member.role)
        found.append(held)
        for role, path in held.inputs.items():
            inputs.append(Input(role, path, Checkpoint.open(path).digest, member.name))
    opened = {i.role: checkpoint if i.role == "model" else Checkpoint.open(i.path) for i in inputs}
    tensors = _tensors(settings, checkpoint, family, members, found, code, opened)
    plain = settings.model_dump(mode="json", exclude={"model", "out", "seed", "add"}, exclude_defaults=True)
    if settings.add:
        plain["add"] = [{"digest": opened[m.role].digest, "weight": m.weight} for m in members[1:]]
    config = with_dtype(checkpoint.config, code)
    if any(held.head is not None for held in found):
        config["tie_word_embeddings"] = False
        progress.say("the adapter changes the embedding and the head apart: the output has two matrices")
    changed = sum(isinstance(t.source, Apply) for t in tensors)
    return Plan(
        operation="fold-adapter",
        settings=plain,
        seed=settings.seed,
        inputs=tuple(inputs),
        tensors=tuple(tensors),
        config=config,
        lineage=Lineage(
            operation="fold-adapter",
            kind="training",
            settings=plain,
            seed=settings.seed,
            adapter={"kinds": [held.adapter.kind for held in found], "tensors": changed},
        ),
        carried=dict.fromkeys(sidecars(reference.path), "model"),
        shard_bytes=settings.shard_bytes or DEFAULT_SHARD_BYTES,
    )


def _tensors(
    settings: FoldSettings, checkpoint: Checkpoint, family: Family, members: list[Weighted], found: list[Applied],
    code: str | None, opened: dict[str, Checkpoint],
) -> list[OutTensor]:  # fmt: skip
    tensors = []
    names = dict.fromkeys(checkpoint.tensors)
    head = f"{family.declaration.head}.weight"
    split = any(held.head is not None for held in found)
    if split:
        names[head] = None
    for name in names:
        like = family.embedding if name == head and split else name
        stored = checkpoint.tensors[like]
        if name == head and split:
            sources = [held.head or held.sources.get(like) for held in found]
        else:
            sources = [held.sources.get(name) for held in found]
        source = _sum(Copy("model", like), members, sources)
        wanted = code if stored.dtype in FLOATS else None
        if settings.rounding == "stochastic" and isinstance(source, Apply):
            source = Apply("kernel:stochastic", (source,), {"dtype": wanted or stored.dtype})
        tensors.append(fitted(name, source, checkpoint, wanted, opened, like=like))
    return tensors


def _sum(base: Copy, members: list[Weighted], sources: list[Source | None]) -> Source:
    """The tensor as it is, what one adapter makes of it, or the base moved by the weighted sum of the differences."""
    there = [(m.weight, s) for m, s in zip(members, sources, strict=True) if s is not None and m.weight != 0]
    if not there:
        return base
    if len(there) == 1 and math.isclose(there[0][0], 1.0, rel_tol=0.0, abs_tol=0.0):
        (_, alone), change = there[0], change_of(there[0][1])
        # what is a change of another matrix, or rows in the place of others, is one of this tensor too: measured, and
        # rounded as the rest is
        other = change is not None and change.base != base
        return Apply("kernel:changed", (base, alone)) if other or isinstance(alone, Rows) else alone
    return Apply("kernel:add_deltas", (base, *(s for _, s in there)), {"weights": [w for w, _ in there]})
