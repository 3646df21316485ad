"""run.json: what a run did, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from surgeon.checkpoint.config_json import read_as

RUN_FILE = "run.json"


class StageRecord(BaseModel):
    """One stage. out: its folder relative to the run's, None where it wrote none. result: its operation's JSON."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: str
    operation: str
    key: str | None = None
    out: str | None = None
    seconds: float | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    result: dict[str, Any] = Field(default_factory=dict)


class RunRecord(BaseModel):
    """The content of run.json."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    format: Literal[1]
    recipe: str
    title: str
    about: str = ""
    stages: list[StageRecord]


def read_run(folder: Path) -> RunRecord:
    """The record of the run in `folder`. Raises SurgeonError where it cannot be read."""
    path = folder / RUN_FILE
    return read_as(
        path,
        RunRecord,
        f"{RUN_FILE} is not the record of a run that this version reads",
        "run the recipe again: finished stages are not done twice",
    )
