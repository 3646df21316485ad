"""A length curriculum: short rows first, longer ones in the later part of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from surgeon.data.numbers import parse_count
from surgeon.errors import UsageError


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
        shares = [Fraction(share) if colon else Fraction(1, len(words)) for _, colon, share in words]
    except (ValueError, ZeroDivisionError) as error:
        raise _wrong(f"{text!r} is not a list of lengths", text) from error
    if len({colon for _, colon, _ in words}) > 1 or sum(shares) != 1 or min(shares) <= 0:
        raise _wrong("the shares of the stages do not add up to 1", text)
    if lengths[0] < 2 or any(a >= b for a, b in pairwise(lengths)):
        raise _wrong("the lengths of the stages do not ascend from 2 tokens", text)
    return tuple(Stage(length, share) for length, share in zip(lengths, shares, strict=True))


def seq_len_at(step: int, total: int, stages: Sequence[Stage]) -> int:
    """Tokens of a row at `step` (0 to total - 1) of `total`.

    Stage k ends behind round(total x (share_1 + ... + share_k)) steps, halves up, in exact fractions.
    Source: Xiong et al. 2023 (2309.16039), section 4.3: 4,096 tokens, then 32,768 from 40 % of the training on. There
    the tokens of a batch stay the same; that is up to who asks here.
    Raises UsageError where a stage has no step.
    """
    if not 0 <= step < total:
        raise ValueError(f"step {step} is not one of {total}")
    ends, done = [], Fraction(0)
    for stage in stages:
        done += stage.share
        ends.append(int(total * done + Fraction(1, 2)))
    if any(a >= b for a, b in pairwise([0, *ends])):
        raise UsageError(
            f"a stage of the lengths has no step: they end behind the steps {ends} of {total}",
            "--seq-len",
            "train longer, or with fewer stages",
        )
    return next(stage.seq_len for stage, end in zip(stages, ends, strict=True) if step < end)


def _wrong(problem: str, text: str) -> UsageError:
    return UsageError(problem, f"--seq-len {text}", "write 512,1024,2048 or 4096:0.4,32768:0.6")
