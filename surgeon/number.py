"""Numbers as people write them: float() and pydantic also take 1_0 for ten, as Python's source does."""

from __future__ import annotations

import math
import types
import typing
from fractions import Fraction
from typing import Any


def number(text: Any) -> float:
    """float(text), less what only Python means by a number: underscores between digits, digits of other scripts.

    Raises ValueError on text that is no number, TypeError on what is neither text nor a number.
    """
    if isinstance(text, str) and not is_written(text):
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def fraction(text: str) -> Fraction:
    """Fraction(text), refused as by `number`."""
    if not is_written(text):
        raise ValueError(f"{text!r} is not a number")
    return Fraction(text)


def is_written(text: str) -> bool:
    """Whether a person may have written a number so; it need not be one."""
    return text.isascii() and "_" not in text


def whole(text: str) -> int:
    """int(text), refused as by `number`."""
    if not is_written(text):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def is_finite(value: Any) -> bool:
    """Whether no number in a value (a number, or a list of them) is infinite or none at all."""
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def misread(annotation: Any, value: Any) -> str | None:
    """The word of `value` (a word or a list of them) that pydantic would take for a number of this type, and a person
    would not. A type with a validator in front reads what it likes (Count: 1_000)."""
    words = value if isinstance(value, list | tuple) else [value]
    wrong = [word for word in words if isinstance(word, str) and not is_written(word)]
    return wrong[0] if wrong and _is_number(annotation) else None


def _is_number(annotation: Any) -> bool:
    """int or float, or a list of these, with limits or without, also where None is allowed."""
    if annotation in (int, float):
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        from pydantic import BeforeValidator

        return _is_number(arguments[0]) and not any(isinstance(a, BeforeValidator) for a in arguments[1:])
    inner = [a for a in arguments if a not in (types.NoneType, Ellipsis)]
    return origin in (typing.Union, types.UnionType, list, tuple) and bool(inner) and all(map(_is_number, inner))
