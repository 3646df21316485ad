"""MODEL=WEIGHT, as a person writes it."""

from __future__ import annotations

from pathlib import Path

from surgeon.errors import UsageError
from surgeon.merge.graded import HINT, Graded, parse


def parse_weight(text: str) -> tuple[str, Graded]:
    """("model", 0.5) from "model=0.5"; 1 where there is no weight. A weight may vary (see Graded).

    A path may hold `=` itself: a folder of the whole name is one, and what follows the last `=` is part of a path
    where it holds a slash. Anything else that does not parse as a weight is refused.
    """
    model, equals, tail = text.rpartition("=")
    if not equals or not model or Path(text).exists() or "/" in tail:
        return text, Graded((1.0,), {})
    try:
        return model, parse(tail, text)
    except UsageError as error:
        if error.hint != HINT:
            raise
        raise UsageError(f"the weight does not parse: {error.problem}", text, f"MODEL=WEIGHT: {HINT}") from error
