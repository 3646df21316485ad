"""A method's options where numbers may vary over depth and parts: a method itself only ever sees plain numbers."""

from __future__ import annotations

import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from surgeon.merge.graded import Graded, parse
from surgeon.merge.place import Place
from surgeon.registry import Method, families


@dataclass(frozen=True)
class PlacedOptions:
    """The options that a person set; every other one has the method's default."""

    method: Method
    graded: Mapping[str, Graded]
    plain: Mapping[str, Any]

    def at(self, place: Place) -> dict[str, Any]:
        """The options for a tensor that stands there, as plain data."""
        return {name: value.at(place) for name, value in self.graded.items()} | dict(self.plain)

    def check(self, roles: Collection[str]) -> None:
        """Refuse parts that the model does not have."""
        for name, value in self.graded.items():
            value.check(roles, f"--option {name}")

    def described(self) -> dict[str, Any]:
        """As they are recorded: the same for a word and for the number that it says."""
        return {name: value.plain() for name, value in self.graded.items()} | dict(self.plain)


def placed_options(method: Method, given: Mapping[str, Any]) -> PlacedOptions:
    """Checks names and types, as Method.bind does. Raises UsageError."""
    graded = {
        name: parse(value, f"--option {name}")
        for name, value in given.items()
        if name in method.options
        and _is_number(method.options[name].annotation)
        and not (value is None or str(value).lower() in ("none", "null"))
    }
    first = {name: value.values[0] for name, value in graded.items()}
    bound = method.bind({**given, **first})  # refuses what it does not know, and what it lacks
    return PlacedOptions(method, graded, {name: bound[name] for name in given if name not in graded})


def check_numbers(
    method: Method, weighted: Sequence[_Weighted], options: PlacedOptions, places: Iterable[Place]
) -> None:
    """Let the method see all weights and options that it will get, on a tiny tensor: what it refuses is refused before
    anything is written. A method of a person's own is not asked. Raises UsageError."""
    home, colon, _ = method.name.partition(":")
    if colon and home not in families("merge"):
        return
    coefficients = method.trait("weighted_sum")
    seen: dict[str, None] = {}
    for place in places:
        weights, here = [entry.weight.at(place) for entry in weighted], options.at(place)
        key = repr((weights, here))
        if key in seen:
            continue
        seen[key] = None
        if coefficients is not None:
            coefficients(weights, **method.bind(here))
            continue
        import torch

        from surgeon.ops.kernels.merge import merge

        count = len(weights) + ("base" in method.supplied and not method.trait("BASE_OPTIONAL", False))
        tensors = [torch.eye(4, dtype=torch.float64) * (n + 1) for n in range(count)]
        merge(tensors, 0, method=method.name, weights=weights, options=here, base=count > len(weights))


def check_constant(method: Method, options: PlacedOptions, weights: Sequence[Graded]) -> None:
    """As check_numbers, of models that are not there yet: where no number varies, every tensor meets the same ones."""
    if all(number.constant is not None for number in (*weights, *options.graded.values())):
        check_numbers(method, [_Alone(weight) for weight in weights], options, [Place("other", 0.0)])


class _Weighted(Protocol):
    @property
    def weight(self) -> Graded: ...


def _is_number(annotation: Any) -> bool:
    """float, also where None is allowed, or where it is annotated with limits."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_is_number(a) for a in typing.get_args(annotation) if a is not type(None))
    return annotation is float


@dataclass(frozen=True)
class _Alone:
    """A weight without its model."""

    weight: Graded
