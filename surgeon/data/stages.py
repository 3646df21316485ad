"""Shares of corpora that change in the course of a run, as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from surgeon.errors import UsageError, did_you_mean

_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_HINT = "write END:NAME=WEIGHT,... such as 0.5:general=1,domain=3"


def parse_stages(texts: Sequence[str], names: Sequence[str]) -> list[tuple[float, list[float]]]:
    """(end of the stage as a fraction of the run, weight of each corpus in tokens) from `0.5:general=1,domain=3`.

    Ends ascend and the last is 1; every stage gives every corpus a weight, which may be 0, but not to all; a corpus
    that never has one is refused. Raises UsageError.
    """
    stages = [_stage(text, names) for text in texts]
    ends = [end for end, _ in stages]
    if ends != sorted(set(ends)) or ends[-1] != 1:
        raise UsageError(
            f"the stages end at {', '.join(f'{end:g}' for end in ends)}", "--mixture", "let them ascend, the last to 1"
        )
    for number, name in enumerate(names):
        if not any(weights[number] for _, weights in stages):
            raise UsageError(f"no stage reads the corpus {name!r}", "--mixture", "give it a weight, or leave it out")
    return stages


def _stage(text: str, names: Sequence[str]) -> tuple[float, list[float]]:
    head, colon, tail = text.partition(":")
    if not colon or not _NUMBER.fullmatch(head.strip()) or not 0 < float(head) <= 1:
        raise UsageError(f"{head!r} is no end of a stage from 0 to 1", f"--mixture {text}", _HINT)
    weights: dict[str, float] = {}
    for part in tail.split(","):
        name, equals, value = (word.strip() for word in part.rpartition("="))
        if not equals or not _NUMBER.fullmatch(value):
            raise UsageError(f"{part!r} is not NAME=WEIGHT", f"--mixture {text}", _HINT)
        if name not in names:
            raise UsageError(f"there is no corpus {name!r}", f"--mixture {text}", did_you_mean(name, names))
        if name in weights:
            raise UsageError(f"the corpus {name!r} has two weights", f"--mixture {text}", "give it one")
        weights[name] = float(value)
    absent = [name for name in names if name not in weights]
    if absent:
        raise UsageError(f"the corpus {absent[0]!r} has no weight", f"--mixture {text}", f"add {absent[0]}=0, or more")
    if not 0 < math.fsum(weights.values()) < math.inf:
        raise UsageError("all weights of the stage are 0", f"--mixture {text}", "give one of them more")
    return float(head), [weights[name] for name in names]


def first_windows(stages: Sequence[tuple[float, Sequence[float]]], windows: int) -> list[int]:
    """The first window of each stage in a run of so many; refuses stages that are shorter than a window."""
    ends = [round(end * windows) for end, _ in stages]
    starts = [0, *ends[:-1]]
    for (end, _), first, stop in zip(stages, starts, ends, strict=True):
        if first >= stop:
            raise UsageError(
                f"a run of {windows} windows has none for the stage to {end:g}", "--mixture", "lengthen it"
            )
    return starts
