"""The weights of an average over the checkpoints of a run, oldest first."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from surgeon.errors import UsageError
from surgeon.number import number

UNIFORM, EMA = "uniform", "ema:"
TOLERANCE = 1e-9  # of the sum of weights that a person gives
_HINT = "write uniform, ema:0.2, numbers with commas between them (0.2,0.3,0.5), or a file of numbers"


def average_weights(text: str, count: int) -> tuple[list[float], str]:
    """The weights of `count` checkpoints, oldest first, and the rule as it is recorded (numbers in place of a file).

    `uniform`: 1/n each. Source: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better
    Generalization (arXiv 1803.05407); of the latest checkpoints of a run: Kaddour 2022, Stop Wasting My Time!
    (arXiv 2209.14981).

    `ema:b`: the moving average theta <- (1 - b) theta + b theta_k that starts with the oldest checkpoint gives it
    (1 - b)^(n-1), and the k-th one b (1 - b)^(n-k). With a small b the oldest one weighs most: b = 0.2 over six are
    0.328, 0.082, 0.102, 0.128, 0.16, 0.2. Source: Luo et al. 2025, How Learning Rate Decay Wastes Your Best Data in
    Curriculum-Based LLM Pretraining (arXiv 2511.18903), with these numbers.

    Numbers, or a file of them (a JSON list, or one a line): as they are.

    Raises UsageError on a b or a weight outside of [0, 1], on another number of weights than of checkpoints, and on
    weights that do not sum to 1 within 1e-9.
    """
    if text == UNIFORM:
        return [1 / count] * count, UNIFORM
    if text.startswith(EMA):
        share = _number(text.removeprefix(EMA), f"--weights {text}")
        later = [share * (1 - share) ** (count - k) for k in range(2, count + 1)]
        return [(1 - share) ** (count - 1), *later], f"{EMA}{share!r}"
    found = _numbers(text)
    if len(found) != count:
        raise UsageError(
            f"{len(found)} weights are given for {count} checkpoints",
            f"--weights {text}",
            "give one weight for each checkpoint, the oldest one's first",
        )
    total = math.fsum(found)
    if abs(total - 1) > TOLERANCE:
        raise UsageError(f"the weights sum to {total!r}, not to 1", f"--weights {text}", "divide them by their sum")
    return found, ",".join(map(repr, found))


def _numbers(text: str) -> list[float]:
    """Of the words themselves where each is a number, else of the file of that name."""
    words = text.split(",")
    if all(map(_is_number, words)) or not _is_file(text):
        return [_number(word, f"--weights {text}") for word in words]
    try:
        content = Path(text).read_text(encoding="utf-8")
        values: Any = json.loads(content) if content.lstrip().startswith("[") else content.split()
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(
            f"the file holds no weights ({error})", text, "write a JSON list of numbers, or one number a line"
        ) from error
    return [_number(value, text) for value in values]


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or no name at all
        return False


def _is_number(word: Any) -> bool:
    try:
        return not isinstance(word, bool) and not math.isnan(number(word))
    except (TypeError, ValueError):
        return False


def _number(value: Any, where: str) -> float:
    """A number in [0, 1]."""
    if not _is_number(value):
        raise UsageError(f"{value!r} is neither a number nor a file", where, _HINT)
    found = float(value)
    if not 0 <= found <= 1:
        raise UsageError(
            f"{value} is not in [0, 1]: an average lies between the checkpoints",
            where,
            "other weights: surgeon merge linear OUT MODEL=WEIGHT ...",
        )
    return found
