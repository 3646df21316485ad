"""The selectors that only count: top, bottom, random."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from surgeon.errors import UsageError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.expand.selectors.bottom import bottom
from surgeon.expand.selectors.random import random
from surgeon.expand.selectors.top import top


def test_top_and_bottom_are_the_ends() -> None:
    assert top(8, 3) == [5, 6, 7]
    assert bottom(8, 3) == [0, 1, 2]
    assert top(4, 4) == bottom(4, 4) == [0, 1, 2, 3]


def test_random_draws_every_block_as_often_as_another() -> None:
    draws = [random(6, 2, seed) for seed in range(3000)]
    assert all(len(set(d)) == 2 and d == sorted(d) for d in draws)
    counts = Counter(block for d in draws for block in d)
    # each block is drawn with probability 1/3: 1000 times, with a standard deviation of 26
    assert set(counts) == set(range(6)) and all(abs(n - 1000) < 130 for n in counts.values())
    assert random(6, 2, 5) == random(6, 2, 5)


@pytest.mark.parametrize("name", ["top", "bottom", "random"])
def test_too_many_blocks_or_none_are_refused(stories: Path, tmp_path: Path, name: str) -> None:
    for add in (None, 6):
        with pytest.raises(UsageError, match=r"more than the 5 blocks|number of blocks"):
            plan_expand(ExpandSettings(model=str(stories), out=tmp_path / "out", add=add, select=name))


def test_the_chosen_blocks_are_copied_right_after_themselves(stories: Path, tmp_path: Path) -> None:
    plan = plan_expand(ExpandSettings(model=str(stories), out=tmp_path / "out", add=2, select="top"))
    assert plan.lineage.blocks is not None and plan.lineage.blocks.source == [0, 1, 2, 3, 3, 4, 4]
