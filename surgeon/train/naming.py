"""A refusal says which method of the run it is of."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from surgeon.errors import SurgeonError
from surgeon.registry import Method

P = ParamSpec("P")
T = TypeVar("T")


def named(method: Method, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `make` gives. A refusal of its that does not name the method gets the name in front of its place: several
    methods share a teacher, a Fisher diagonal, or what needs the whole model in one process."""
    try:
        return make(*args, **kwargs)
    except SurgeonError as error:
        if method.name in f"{error.problem} {error.where} {error.hint}":
            raise
        raise type(error)(error.problem, f"{method.kind} {method.name}, {error.where}", error.hint) from error
