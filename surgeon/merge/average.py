"""surgeon average RUN: the average of the last checkpoints of one training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgeon.checkpoint.index import Checkpoint
from surgeon.data.numbers import Count
from surgeon.errors import UsageError
from surgeon.merge.average_weights import UNIFORM, average_weights
from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.merge.run_checkpoints import RunCheckpoint, check_one_run, last_of, named
from surgeon.ops.plan import Apply, Input, Plan, Rows, Source
from surgeon.progress import SILENT, Progress

OPERATION = "average"
LAST = 6


class AverageSettings(BaseModel):
    """The options of `surgeon average RUN OUT`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(
        description="The output of cpt --keep-checkpoints, its OUT.run, or a folder of checkpoints that are named "
        "with a number (step-100, checkpoint-500): they are taken in the order of the numbers."
    )
    out: Path = Field(description="The folder to write; it must not exist yet.")
    last: int | None = Field(None, gt=0, description=f"How many of the newest checkpoints to average [{LAST}].")
    checkpoint: list[str] = Field([], description="A checkpoint of RUN by name, in place of --last; repeatable.")
    weights: str = Field(
        UNIFORM,
        description="uniform; ema:B, a moving average from the oldest to the newest that gives each new one the "
        "weight B (so the oldest may weigh most: see what is printed); numbers a,b,c, oldest first; or a file of "
        "them (a JSON list, or one a line). They sum to 1.",
    )
    dtype: str | None = Field(None, description="Stored type: float32, bfloat16, float16 [as the checkpoints'].")
    seed: int = Field(0, description="Of the record; nothing is drawn.")
    shard_bytes: Count | None = Field(None, gt=0, description="The size that a shard does not exceed.")


def plan_average(settings: AverageSettings, progress: Progress = SILENT) -> Plan:
    """sum_k w_k theta_k over the chosen checkpoints, in float64 with one rounding to the stored type; configuration,
    tokenizer and other files are those of the newest one. `uniform` is the sum divided by n.

    Raises UsageError on wrong weights, SurgeonError where there are fewer checkpoints than asked for, where two are of
    different runs as far as their lineages say, or where shapes differ.
    Source: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization (arXiv 1803.05407);
    Kaddour 2022, Stop Wasting My Time! (arXiv 2209.14981); for `ema`: Luo et al. 2025, How Learning Rate
    Decay Wastes Your Best Data in Curriculum-Based LLM Pretraining (arXiv 2511.18903).
    """
    chosen = _chosen(settings)
    weights, rule = average_weights(settings.weights, len(chosen))
    check_one_run(chosen)
    mean = rule == UNIFORM
    newest_first = list(zip(chosen, weights, strict=True))[::-1]
    plan = plan_merge_models(
        MergeModelsSettings(
            method="linear",
            out=settings.out,
            models=[f"{c.path.absolute()}={1.0 if mean else w!r}" for c, w in newest_first],
            option={"normalize": False},
            dtype=settings.dtype,
            seed=settings.seed,
            shard_bytes=settings.shard_bytes,
        ),
        progress,
    )
    if mean:
        by = float(len(chosen))
        plan = replace(plan, tensors=tuple(replace(t, source=_divided(t.source, by)) for t in plan.tensors))
    ordered = _inputs(plan, [c for c, _ in newest_first])
    described = {
        "weights": rule,
        "checkpoints": [
            {"step": c.step, "digest": i.digest, "weight": w}
            for (c, w), i in list(zip(newest_first, ordered, strict=True))[::-1]
        ],
    } | settings.model_dump(mode="json", include={"dtype", "shard_bytes"}, exclude_defaults=True)
    merge = described | {"method": "linear", "files_from": (plan.lineage.merge or {}).get("files_from", {})}
    lineage = plan.lineage.model_copy(update={"operation": OPERATION, "settings": described, "merge": merge})
    return replace(plan, operation=OPERATION, settings=described, inputs=ordered, lineage=lineage)


def averaged(plan: Plan) -> dict[str, Any]:
    """{"checkpoints": [{"path", "step", "weight"}]} of a plan, oldest first."""
    found: list[Mapping[str, Any]] = plan.settings["checkpoints"]
    return {
        "checkpoints": [
            {"path": str(i.path), "step": c["step"], "weight": c["weight"]}
            for c, i in zip(found, plan.inputs[::-1], strict=True)
        ]
    }


def asked_for(settings: AverageSettings) -> int:
    """How many checkpoints are averaged: fewer are refused. Raises UsageError on words that contradict each other."""
    if not settings.checkpoint:
        return settings.last or LAST
    if settings.last is not None:
        raise UsageError("the last checkpoints and named ones are asked for", "--checkpoint", "leave one of them out")
    return len(settings.checkpoint)


def _chosen(settings: AverageSettings) -> list[RunCheckpoint]:
    count = asked_for(settings)
    if settings.checkpoint:
        return named(Path(settings.run), settings.checkpoint)
    return last_of(Path(settings.run), count)


def _inputs(plan: Plan, checkpoints: Sequence[RunCheckpoint]) -> tuple[Input, ...]:
    """One for each checkpoint, in the order given; the plan may have one for all that are equal byte for byte."""
    free = list(plan.inputs)
    found = []
    for number, checkpoint in enumerate(checkpoints):
        path = checkpoint.path.absolute()
        digest = Checkpoint.open(path).digest
        own = next((i for i in free if i.digest == digest), None)
        if own is not None:
            free.remove(own)
        found.append(Input(f"same{number}" if own is None else own.role, path, digest, path.name))
    return tuple(found)


def _divided(source: Source, by: float) -> Source:
    """The source with every sum of models divided."""
    match source:
        case Apply("kernel:merge"):
            return Apply("kernel:divide", (source,), {"by": by})
        case Apply(_, inputs):
            return replace(source, inputs=tuple(_divided(i, by) for i in inputs))
        case Rows(pieces):
            return Rows(tuple(replace(p, source=_divided(p.source, by)) for p in pieces))
    return source
