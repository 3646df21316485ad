"""Types of options that many methods have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
