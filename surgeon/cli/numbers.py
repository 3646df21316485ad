"""Numbers of the command line, with refusals that name the flag."""

from __future__ import annotations

import math

from surgeon.data.numbers import parse_count
from surgeon.errors import UsageError
from surgeon.number import number


def count(flag: str, text: str) -> int:
    """A whole number above 0: 100000, 100k, 1.5B."""
    try:
        value = parse_count(text)
    except ValueError as error:
        raise UsageError(str(error), flag, "write 100000, 100k, 1.5M or 2B") from error
    if value < 1:
        raise UsageError(f"{flag} is {text}", flag, "give a number above 0")
    return value


def share_of(flag: str, text: str, most: float = math.inf) -> float:
    """A number from 0 to `most`: 0.03 or 3%."""
    digits, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        value = number(digits) / (100 if percent else 1)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a number", flag, "write 0.03 or 3%") from error
    if not 0 <= value <= most or math.isinf(value):  # nan is in no interval
        raise UsageError(
            f"{flag} is {text}", flag, f"give a number from 0 to {most:g}" if most < math.inf else "from 0"
        )
    return value
