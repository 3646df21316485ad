"""A batch that grows over a run: rows and first window of a step, as pure functions of the step."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from surgeon.data.numbers import parse_count
from surgeon.errors import UsageError
from surgeon.number import fraction


@dataclass(frozen=True)
class BatchRamp:
    """stages: (rows of a step, until): a share of the steps (below 1) or a number of steps. rows: after the last one.

    Steps are counted from 1, as schedules count them; windows from 0. Shares are exact fractions, rounded down to
    whole steps. Rows must grow from stage to stage, and so must their ends: then more steps are always more windows.
    Source: Yi 2024 (2403.04652), a batch that is raised in stages under a constant learning rate; Brown et al. 2020
    (2005.14165), from 32k tokens on. Yi raise it when the loss stops falling; here the steps are named beforehand,
    so that a batch depends on nothing but its step.
    """

    stages: tuple[tuple[int, Fraction], ...]
    rows: int

    def __post_init__(self) -> None:
        sizes = [*(rows for rows, _ in self.stages), self.rows]
        if sizes[0] < 1 or any(a >= b for a, b in itertools.pairwise(sizes)):
            raise UsageError(
                f"the rows of a batch do not grow: {', '.join(map(str, sizes))}",
                "--batch-ramp",
                "begin with at least a row, and give every stage more, the last one less than --batch-tokens",
            )

    def rows_at(self, step: int, total: int) -> int:
        """Rows of step `step` (from 1) of `total`."""
        place = bisect.bisect_left(self._ends(total), step)
        return self.stages[place][0] if place < len(self.stages) else self.rows

    def windows(self, steps: int, total: int) -> int:
        """How many windows the first `steps` steps of `total` take: the number of the first window after them."""
        return self._count(steps, self._ends(total))

    def steps(self, windows: int) -> int:
        """The fewest steps that take at least so many windows. Raises UsageError where the ramp is longer."""
        # one step more is at least one window more, also where a stage measured by the whole is longer for it
        found = 1 + bisect.bisect_left(range(1, windows), windows, key=lambda n: self._count(n, self._places(n)))
        self._ends(found)
        return found

    def _count(self, steps: int, ends: Sequence[int]) -> int:
        bounds = [0, *(min(end, steps) for end in itertools.accumulate(ends, max)), steps]
        sizes = [*(rows for rows, _ in self.stages), self.rows]
        return sum(rows * (end - begin) for rows, (begin, end) in zip(sizes, itertools.pairwise(bounds), strict=True))

    def _places(self, total: int) -> list[int]:
        return [math.floor(until * total) if until < 1 else int(until) for _, until in self.stages]

    def _ends(self, total: int) -> list[int]:
        """The last step of each stage, refused where they do not fit into the run."""
        ends = self._places(total)
        if any(a > b for a, b in itertools.pairwise([0, *ends, total])):
            raise UsageError(
                f"the stages of the ramp end at steps {', '.join(map(str, ends))} of {total}",
                "--batch-ramp",
                "let them end one after the other, within the run",
            )
        return ends


def parse_ramp(text: str, seq_len: int, rows: int) -> BatchRamp:
    """`TOKENS:UNTIL,...`, as 16k:0.1,32k:0.25: 16k tokens a step for a tenth of the steps, 32k up to a quarter, then
    the whole batch of `rows` rows. UNTIL from 1 on is a number of steps. Whole rows of `seq_len` tokens, as
    --batch-tokens. Raises UsageError.
    """
    return BatchRamp(tuple(_stage(part, seq_len) for part in text.split(",")), rows)


def check_ramp(text: str) -> None:
    """Refuse words that are no stages of a ramp, before the length of a row is known. Raises UsageError."""
    for part in text.split(","):
        _stage(part, 1)


def _stage(part: str, seq_len: int) -> tuple[int, Fraction]:
    tokens, _, until = part.partition(":")
    try:
        stage = parse_count(tokens) // seq_len, fraction(until.strip())
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"{part!r} is no stage of a ramp", "--batch-ramp", "write TOKENS:UNTIL, as 16k:0.1,32k:0.25"
        ) from error
    if stage[1] <= 0 or (stage[1] >= 1 and stage[1].denominator != 1):
        raise UsageError(
            f"{until.strip()} is no place in a run",
            f"--batch-ramp {part}",
            "give a share of the steps below 1, or a whole number of steps",
        )
    return stage
