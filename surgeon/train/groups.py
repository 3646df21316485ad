"""Learning rate and weight decay of some of the trained tensors: REGEX:lr=FACTOR,weight_decay=X.

Slow learners, `old-blocks:lr=0.01`: what is old learns a hundredth as fast as what is new. Source: Zhang et al. 2023
(2303.05118), whose code gives the backbone 1/100 of the head's rate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import TYPE_CHECKING

from surgeon.errors import UsageError
from surgeon.number import number

if TYPE_CHECKING:
    from torch import Tensor

_FORM = re.compile(r"(?P<expression>.+):(?P<values>(?:lr|weight_decay)=[^:]*)")
FLAG = "--group"


def grouped(
    words: Sequence[str],
    names: Sequence[str],
    known: Callable[[str], Set[str] | None] = lambda word: None,
    also: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> tuple[dict[str, float], dict[str, float]]:
    """(factors of the learning rate, weight decays) by name. A name belongs to the first group whose expression is
    found in it, or in one of its other names (`also`: those of tied tensors). known: the names of a set that is called
    by its own word, None for an expression. Raises UsageError on what cannot be read, and on a group that is left
    without a tensor."""
    factors: dict[str, float] = {}
    decays: dict[str, float] = {}
    free = list(names)
    for word in words:
        expression, pattern, values = parse_group(word)
        members = known(expression)
        held = [
            name
            for name in free
            if (any(map(pattern.search, (name, *also.get(name, ())))) if members is None else name in members)
        ]
        if not held:
            raise UsageError(
                "no trained tensor belongs to this group" + (" any more" if len(free) < len(names) else ""),
                f"{FLAG} {word}",
                f"names look like {names[0]}; the first group that matches a name has it",
            )
        free = [name for name in free if name not in set(held)]
        if "lr" in values:
            factors |= dict.fromkeys(held, values["lr"])
        if "weight_decay" in values:
            decays |= dict.fromkeys(held, values["weight_decay"])
    return factors, decays


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a tensor decays: no norm, no bias, no decay of a state (Mamba), stacked ones neither."""
    leaf = name.rpartition(".")[2]
    return parameter.ndim >= 2 and not leaf.endswith("bias") and leaf != "A_log"


def parse_group(word: str) -> tuple[str, re.Pattern[str], dict[str, float]]:
    """(expression, compiled, values by key) of REGEX:lr=FACTOR,weight_decay=X. Raises UsageError."""
    hint = "write for example embed_tokens:lr=0.1,weight_decay=0"
    match = _FORM.fullmatch(word)
    if match is None:
        raise UsageError(f"{word!r} is not REGEX:lr=FACTOR,weight_decay=X", FLAG, hint)
    values: dict[str, float] = {}
    for part in match["values"].split(","):
        key, _, text = part.partition("=")
        try:
            value = number(text)
        except ValueError:
            value = math.nan
        if key not in ("lr", "weight_decay") or key in values or not (math.isfinite(value) and value >= 0):
            raise UsageError(
                f"{part!r} is not lr=FACTOR or weight_decay=X, from 0 on and once", f"{FLAG} {word}", hint
            )
        values[key] = value
    try:
        return match["expression"], re.compile(match["expression"]), values
    except re.error as error:
        raise UsageError(f"{match['expression']!r} is no regular expression: {error}", FLAG, hint) from error
