"""What a person may set of a merge of task vectors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from surgeon.data.numbers import Count
from surgeon.merge.align import NewRows
from surgeon.merge.initial import NewBlocks


class MergeSettings(BaseModel):
    """The options of `surgeon merge-task-vectors`. Weights and numbers of the method may vary over depth and parts
    (see surgeon.merge.graded)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(description="The model that all descend from.")
    out: Path = Field(description="The folder to write; it must not exist yet.")
    add: list[str] = Field(
        min_length=1,
        description="A model made from BASE, MODEL=WEIGHT or MODEL+ADAPTER=WEIGHT; repeatable. A weight is a number, "
        "a curve over the depth (0.2,0.5,1) or values by part (0.5,attention:0,1,mlp:0.3).",
    )
    method: str = Field("task_arithmetic", description="How deltas are combined (`surgeon methods merge`).")
    scale: float = Field(1.0, allow_inf_nan=False, description="Factor of the combined delta (lambda).")
    onto: str | None = Field(
        None, description="The model whose shape and files the output has [the most operated-on]."
    )
    new_blocks: NewBlocks = Field("none", description="What new blocks get of a delta made without them.")
    new_rows: NewRows = Field("own", description="New rows: the delta of their own model, or none.")
    special_tokens: Literal["taken", "merged"] = Field(
        "taken",
        description="Special and chat tokens that one model alone trained: its rows as they are, or by weight.",
    )
    chat: str | None = Field(
        None,
        description="The model whose chat template, end-of-sequence ids and generation config the output has [the one "
        "that changed the base's].",
    )
    untie: bool = Field(False, description="Give the output a head of its own where some models have one.")
    lineage: Path | None = Field(None, description="The surgeon.json of a model whose folder has none.")
    blocks: str | None = Field(
        None,
        description="Of a deeper model without lineage: the base's block that each block came from, 0,1,1,2 (1:zero "
        "where the copy began with that fill).",
    )
    any_base: bool = Field(
        False,
        description="Add models whose weights do not look as if they came from BASE, or that compute in another way.",
    )
    dtype: str | None = Field(None, description="Stored type: float32, bfloat16, float16 [as the model's].")
    option: dict[str, Any] = Field(default_factory=dict, description="A keyword of the method; repeatable.")
    search: list[str] = Field(
        default_factory=list,
        description="Held-out text, NAME=CORPUS, by which the weights of models given without one are found; "
        "repeatable. Models given with a weight keep it. Also under --dry-run: the plan needs the weights.",
    )
    objective: str = Field(
        "min-max",
        description="Of the search: least largest loss above the best found (min-max), least mean of them (mean), or "
        "the NAME of one corpus.",
    )
    search_tokens: Count = Field(20_000, gt=0, description="Whole documents of each corpus until this many tokens.")
    search_range: tuple[float, float] = Field((0.0, 1.25), description="Least and largest weight that is searched.")
    search_grid: int = Field(5, ge=3, description="Weights for each model at first, both ends of the range included.")
    search_rounds: int = Field(2, ge=0, description="Refinements: a quadratic surface through the best is minimised.")
    seed: int = Field(0, description="Seed of what is drawn.")
    shard_bytes: Count | None = Field(None, gt=0, description="The size that a shard does not exceed.")

    @field_validator("search_range")
    @classmethod
    def _ascends(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not (math.isfinite(value[0]) and math.isfinite(value[1]) and value[0] < value[1]):
            raise ValueError(f"{value[0]:g},{value[1]:g} is no range: give the least weight, then the largest")
        return value
