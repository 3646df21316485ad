"""Counts as people write them: 100M tokens, 32k, 1.5B."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator

_FORM = re.compile(
    r"^\s*((?:\d{1,3}(?:_\d{3})+|\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE]\d+)?)\s*([kKmMbBtT]?)\s*$", re.ASCII
)
_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def parse_count(value: Any) -> int:
    """A whole number from 100000, "100k", "1.5M", "2B", "1_000" or "1e6"; the suffixes are powers of 1000.

    `_` and `,` stand before groups of three digits: 1,5M is not 15 million. Raises ValueError (which a settings model
    turns into a refusal) on anything else, and on what is not whole.
    """
    if isinstance(value, bool) or value is None:
        raise ValueError(f"{value!r} is not a count")
    if isinstance(value, int):
        return value
    match = _FORM.match(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a count; write 100000, 100k, 1.5M or 2B")
    number = Decimal(match[1].replace("_", "").replace(",", "")) * _SUFFIX[match[2].lower()]
    if number != number.to_integral_value():
        raise ValueError(f"{value!r} is not a whole number")
    return int(number)


Count = Annotated[int, BeforeValidator(parse_count)]
"""The type of a setting that holds a count, for pydantic models."""


def parse_bytes(value: Any) -> int:
    """As parse_count, of bytes, where G is said for 10^9."""
    return parse_count(str(value)[:-1] + "B" if str(value)[-1:] in ("g", "G") else value)
