"""What a person may set of an export: everything of `cpt`, and where it is to go."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from surgeon.train.settings import CptSettings, Positive


class ExportSettings(CptSettings):
    """Settings of `cpt export`: those of the run that is exported, so that one file of settings serves both."""

    to: str = Field(description="The trainer; `surgeon methods exporter`.")
    ranks: Positive = Field(
        1, description="Data-parallel ranks that share the rows of a step (GPUs / tensor / context / pipeline)."
    )
    option_to: dict[str, Any] = Field({}, description="An option of the exporter, NAME=VALUE.")
