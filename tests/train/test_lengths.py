"""The length curriculum: shares are exact, every step has one length, lengths ascend."""

from __future__ import annotations

import pytest

from surgeon.errors import UsageError
from surgeon.train.lengths import parse_stages, stage_ends


def counts(text: str, total: int) -> dict[int, int]:
    stages = parse_stages(text)
    ends = stage_ends(total, stages)
    assert ends[-1] == total
    return {stage.seq_len: end - begin for stage, begin, end in zip(stages, [0, *ends], ends, strict=False)}


def test_the_schedule_of_the_paper() -> None:
    """Xiong et al. 2023 (arXiv 2309.16039), section 4.3: from 4,096 to 32,768 at 40 % of the training."""
    assert counts("4096:0.4,32768:0.6", 1000) == {4096: 400, 32768: 600}


@pytest.mark.parametrize(
    ("text", "total", "expected"),
    [
        ("512,1024,2048", 9, {512: 3, 1024: 3, 2048: 3}),
        ("512,1024,2048", 10, {512: 3, 1024: 4, 2048: 3}),
        ("512,1k", 3, {512: 2, 1000: 1}),
        ("512", 5, {512: 5}),
        ("8:0.1,16:0.2,32:0.7", 10, {8: 1, 16: 2, 32: 7}),  # in floats 0.1 + 0.2 is not 0.3
        ("8:1/3,16:2/3", 3, {8: 1, 16: 2}),
    ],
)
def test_shares(text: str, total: int, expected: dict[int, int]) -> None:
    assert counts(text, total) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("512,", "not a list"), ("a,b", "not a list"), ("512:x,1k:y", "not a list"), ("512:1/0,1k:1", "not a list"),
        ("512:0.4,1024", "add up to 1"), ("512:0.4,1024:0.5", "add up to 1"), ("512:-0.5,1024:1.5", "add up to 1"),
        ("1024,512", "do not ascend"), ("512,512", "do not ascend"), ("1,2", "do not ascend"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        parse_stages(text)
    assert refused.value.where == f"--lengths {text}"


def test_a_stage_without_a_step_is_refused() -> None:
    with pytest.raises(UsageError, match="has no step"):
        stage_ends(2, parse_stages("512,1024,2048"))
