"""A length curriculum: short rows first, longer ones in the later part of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise

from surgeon.data.numbers import parse_count
from surgeon.errors import UsageError
from surgeon.number import fraction

FLAG = "--lengths"


@dataclass(frozen=True, slots=True)
class Stage:
    """Rows of `seq_len` tokens for this share of the steps."""

    seq_len: int
    share: Fraction


def parse_stages(text: str) -> tuple[Stage, ...]:
    """`512,1024,2048` in equal parts, or `4096:0.4,32768:0.6` with the share of the steps of each; lengths ascend.

    Raises UsageError on anything else, and where the shares do not add up to 1.
    """
    words = [word.strip().partition(":") for word in text.split(",")]
    try:
        lengths = [parse_count(length) for length, _, _ in words]
        shares = [fraction(share) if colon else Fraction(1, len(words)) for _, colon, share in words]
    except (ValueError, ZeroDivisionError) as error:
        raise _wrong(f"{text!r} is not a list of lengths", text) from error
    if len({colon for _, colon, _ in words}) > 1 or sum(shares) != 1 or min(shares) <= 0:
        raise _wrong("the shares of the stages do not add up to 1", text)
    if lengths[0] < 2 or any(a >= b for a, b in pairwise(lengths)):
        raise _wrong("the lengths of the stages do not ascend from 2 tokens", text)
    return tuple(Stage(length, share) for length, share in zip(lengths, shares, strict=True))


def stage_ends(total: int, stages: Sequence[Stage]) -> list[int]:
    """Behind how many of `total` steps each stage ends: round(total x (share_1 + ... + share_k)), halves up, in exact
    fractions.

    Source: Xiong et al. 2023 (2309.16039), section 4.3: 4,096 tokens, then 32,768 from 40 % of the training on, with
    the same tokens in a batch (surgeon.train.shape sees to that).
    Raises UsageError where a stage has no step.
    """
    ends = [int(total * done + Fraction(1, 2)) for done in accumulate(stage.share for stage in stages)]
    if any(a >= b for a, b in pairwise([0, *ends])):
        raise UsageError(
            f"a stage of the lengths has no step: they end behind the steps {ends} of {total}",
            FLAG,
            "train longer, or with fewer stages",
        )
    return ends


def _wrong(problem: str, text: str) -> UsageError:
    return UsageError(problem, f"{FLAG} {text}", "write 512,1024,2048 or 4096:0.4,32768:0.6")
