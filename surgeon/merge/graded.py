"""A number that may vary over the depth and over the parts of a model, as a person writes it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from surgeon.errors import UsageError, did_you_mean
from surgeon.merge.place import Place, words
from surgeon.number import number

HINT = "write a number, a curve over the depth (0.2,0.5,1), or values by part: 0.5,attention:0,1,mlp:0.3"
Curve = tuple[float, ...]


@dataclass(frozen=True)
class Graded:
    """`values` hold everywhere but where `parts` says otherwise: one number, or a curve through evenly spaced points
    from the first block (what stands before the blocks) to the last one (what stands behind them), straight between
    them, as mergekit's gradients and the curves of Lu, Luu, Buehler (arXiv 2409.03444) are.

    parts: values by role, or by the first word of roles (attention, mlp, norm, embedding, head, ...); the longest name
    that fits is taken.
    """

    values: Curve
    parts: Mapping[str, Curve]

    @property
    def constant(self) -> float | None:
        """The number, where it does not vary."""
        return self.values[0] if len(self.values) == 1 and not self.parts else None

    @property
    def adds(self) -> bool:
        """Whether it is positive anywhere: what is only taken away, or left out, has no say in what the output is."""
        return any(value > 0 for curve in (self.values, *self.parts.values()) for value in curve)

    @property
    def size(self) -> float:
        """The largest magnitude that it has anywhere."""
        return max(abs(value) for curve in (self.values, *self.parts.values()) for value in curve)

    def at(self, place: Place) -> float:
        """The value for a tensor that stands there."""
        for word in words(place.role):
            if word in self.parts:
                return _along(self.parts[word], place.depth)
        return _along(self.values, place.depth)

    def plain(self) -> float | str:
        """A number, or the text that `parse` reads back."""
        if self.constant is not None:
            return self.constant
        groups = [("", self.values), *((f"{part}:", curve) for part, curve in sorted(self.parts.items()))]
        return ",".join(head + ",".join(map(repr, curve)) for head, curve in groups)

    def check(self, roles: Collection[str], where: str) -> None:
        """Refuse a part that the model does not have."""
        known = sorted({word for role in roles for word in words(role)})
        for part in self.parts:
            if part not in known:
                raise UsageError(f"the model has no part {part!r}", where, did_you_mean(part, known))


def parse(value: Any, where: str) -> Graded:
    """From a word of the command line, or from a number, a list or a mapping (key `default` for what holds
    elsewhere) of a recipe. Raises UsageError on anything that is not exactly that."""
    if isinstance(value, Graded):
        return value
    if isinstance(value, Mapping):
        rest = {str(part): _curve(curve, where) for part, curve in value.items() if part != "default"}
        if "default" not in value:
            raise UsageError("the values by part lack a `default`", where, "add default: 1.0")
        return Graded(_curve(value["default"], where), rest)
    if not isinstance(value, str):
        return Graded(_curve(value, where), {})
    groups: list[tuple[str, list[str]]] = [("", [])]
    for word in value.split(","):
        part, colon, digits = word.partition(":")
        if colon:
            groups.append((part.strip(), []))
        groups[-1][1].append(digits if colon else word)
    found: dict[str, Curve] = {}
    for part, numbers in groups:
        if part in found or not numbers or (part == "" and part in found):
            raise UsageError(f"{value!r} does not say one value for each part", where, HINT)
        found[part] = _curve(numbers, where)
    return Graded(found.pop(""), found)


def _curve(value: Any, where: str) -> Curve:
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise UsageError("a curve without values", where, HINT)
    return tuple(_number(v, where) for v in values)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{value!r} is not a number", where, HINT)
    try:
        found = number(value)
    except ValueError as error:
        raise UsageError(f"{value!r} is not a number", where, HINT) from error
    if not math.isfinite(found):
        raise UsageError(f"{value} is not a finite number", where, HINT)
    return found


def _along(curve: Curve, depth: float) -> float:
    """Piecewise linear through points spread evenly over 0..1; the ends and the points come out exactly."""
    at = depth * (len(curve) - 1)
    low = min(int(at), len(curve) - 1)
    high = min(low + 1, len(curve) - 1)
    share = at - low
    return curve[low] if share == 0 else curve[low] * (1 - share) + curve[high] * share
