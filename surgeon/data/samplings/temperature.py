"""Sizes to a power below one: small corpora come oftener than their size says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field


def temperature(sizes: Sequence[int], *, alpha: Annotated[float, Field(ge=0, le=1)] = 0.3) -> list[float]:
    """Parts as n^alpha of the sizes n: 1 is proportional, 0 the same of each; a temperature T is alpha = 1/T.

    It sets no bound to how often a small corpus is read again: unimax does. Default alpha: of XLM-R and mT5.
    sizes: in tokens. Result: in float64.
    Source: Conneau et al. 2020 (1911.02116); Xue et al. 2021 (2010.11934)
    """
    largest = max(sizes)  # so that no power overflows
    return [(size / largest) ** alpha for size in sizes]
