"""Types of options that many methods have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# of a denominator: at 0 an element whose gradient was always 0 would be divided by 0
Epsilon = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
