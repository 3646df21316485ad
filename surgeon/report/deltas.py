"""How the deltas of a merge lie to their base and to each other, as a report shows it: block by part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict

from surgeon.checkpoint.config_json import read_json_object
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.sidecars import SURGEON_DIR, vectors_name
from surgeon.errors import SurgeonError

MERGES = ("merge-task-vectors", "merge", "fold-adapter")


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Pair(_Loose):
    a: str
    b: str
    cosine: float | None
    null: float | None
    z: float | None
    sign_conflicts: float | None
    disparity: float | None


class Group(_Loose):
    """The sums of a unit, or of the whole model."""

    unit: str = "whole model"
    relative: list[float | None]
    pairs: list[Pair]


class Outlier(_Loose):
    unit: str
    model: str
    relative: float
    median: float


class Deltas(_Loose):
    """What the pass of a merge measured (see surgeon.ops.diagnosis)."""

    models: list[str]
    total: Group
    units: list[Group]
    outliers: list[Outlier]


@dataclass(frozen=True)
class Heat:
    """A value for each block of each part; None where there is none. parts: from the top."""

    title: str
    blocks: int
    parts: list[str]
    values: dict[tuple[str, int], float]

    @property
    def largest(self) -> float:
        return max(map(abs, self.values.values()), default=0.0)


def deltas_of(folder: Path, lineage: Lineage) -> Deltas | None:
    """What a merge remembers of its deltas; None where it has none. Raises SurgeonError on a damaged file."""
    path = folder / SURGEON_DIR / vectors_name(lineage.plan)
    if lineage.operation not in MERGES or not path.is_file():
        return None
    try:
        return Deltas.model_validate(read_json_object(path))
    except pydantic.ValidationError as error:
        raise SurgeonError(
            f"this is not what a merge wrote: {error.errors()[0]['msg']}", str(path), "remove the file, or merge again"
        ) from error


def heats(deltas: Deltas) -> list[Heat]:
    """A map of relative norms for every model, and one of cosines, in units of their null, for every pair."""
    placed = [(place, group) for group in deltas.units if (place := _place(group.unit)) is not None]
    parts = list(dict.fromkeys(part for (part, _), _ in placed))
    blocks = 1 + max((block for (_, block), _ in placed), default=-1)
    found = []
    for i, name in enumerate(deltas.models):
        values = {p: v for p, g in placed if (v := g.relative[i]) is not None}
        found.append(Heat(f"|delta| / |base| of {name}", blocks, parts, values))
    for i, pair in enumerate(deltas.total.pairs):
        values = {p: v for p, g in placed if (v := g.pairs[i].z) is not None and math.isfinite(v)}
        found.append(Heat(f"cosine of {pair.a} and {pair.b}, in units of its null (z)", blocks, parts, values))
    return [heat for heat in found if heat.values]


def _place(unit: str) -> tuple[str, int] | None:
    block, dot, part = unit.partition(".")
    return (part, int(block)) if dot and block.isdigit() else None


def described(deltas: Deltas) -> dict[str, Any]:
    """As plain data, for the report's JSON."""
    return deltas.model_dump(mode="json")
