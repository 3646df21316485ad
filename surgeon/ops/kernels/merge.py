"""A merge method of the registry on the tensors of one output, whole or some rows at a time."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from surgeon import registry
from surgeon.errors import UsageError

if TYPE_CHECKING:  # weighted sums are planned, and computed, without torch
    from torch import Tensor

COMPUTE = "float64"


def ROWWISE(options: Mapping[str, Any]) -> bool:  # noqa: N802 - a trait that depends on the options
    """Whether the method works row by row, once it knows its facts of the whole tensor."""
    return bool(registry.get("merge", options["method"]).trait("ROWWISE", False))


def WHOLE_COPIES(options: Mapping[str, Any]) -> int:  # noqa: N802 - a trait that depends on the options
    """As the method declares."""
    return int(registry.get("merge", options["method"]).trait("WHOLE_COPIES", 3))


def CHANGES(options: Mapping[str, Any]) -> int | None:  # noqa: N802 - a trait that depends on the options
    """The base is what is changed, where there is one."""
    found = registry.get("merge", options["method"])
    return 0 if "base" in found.supplied and options.get("base", True) else None


def merge(
    inputs: list[Tensor],
    seed: int,
    rows: tuple[int, int] | None = None,
    whole: tuple[int, ...] | None = None,
    pieces: Callable[[], Iterator[list[Tensor]]] | None = None,
    memo: dict[str, Any] | None = None,
    *,
    method: str,
    weights: list[float],
    options: dict[str, Any] | None = None,
    base: bool = True,
    models: list[str] | None = None,
    drawn_as: str | None = None,
) -> Tensor:
    """`method` on float64 tensors of one shape; returns that shape, not rounded.

    inputs: the tensors, or `rows` of a tensor of the shape `whole`; pieces: a fresh run over all of its rows; memo:
    what is kept from one call to the next for one tensor. A method that asks for `base` and `deltas` gets inputs[0]
    and the others (one weight per delta), with base=False None and all of them; one that asks for `tensors` gets all
    inputs (one weight each). models: the roles whose deltas they are, for who measures them. drawn_as: the
    tensor whose seed it gets, in place of its own. What else it may ask for is said in surgeon.merge.methods.
    """
    found = registry.get("merge", method)
    if not base and "base" in found.supplied and not found.trait("BASE_OPTIONAL", False):
        raise UsageError(f"{method} needs a base", method, "use: surgeon merge-task-vectors BASE OUT --add MODEL ...")
    whole = tuple(inputs[0].shape) if whole is None else whole
    here = pieces is None or rows is None or rows == (0, whole[0])  # all rows are here already
    supply: dict[str, Any] = {
        "base": inputs[0] if base else None,
        "deltas": inputs[1:] if base else inputs,
        "tensors": inputs,
        "weights": weights,
        "seed": seed,
        "rows": rows,
        "whole": whole,
        "start": 0 if rows is None else rows[0] * math.prod(whole[1:]),
        "chunks": (lambda: iter([inputs])) if here else pieces,
    }
    if "facts" in found.supplied:
        known = {} if memo is None else memo
        if "facts" not in known:
            known["facts"] = _facts(found, supply, options or {})
        supply["facts"] = known["facts"]
    return found.call(supply, options or {})


def _facts(method: registry.Method, supply: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """What the function `facts` of the method's module finds; it gets those of the options that it names."""
    function = method.trait("facts")
    if function is None:
        raise UsageError(
            f"merge {method.name!r} asks for facts, and its module has no function `facts`",
            str(method.function.__module__),
            "add one (see surgeon.merge.methods)",
        )
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    bound = method.bind(options)
    return function(*(supply[p.name] for p in parameters if p.name not in named), **{n: bound[n] for n in named})
