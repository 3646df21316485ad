"""Which blocks are copied and where the copies go; the published block maps are golden."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgeon import registry
from surgeon.errors import UsageError
from surgeon.expand.layout import lay_out_blocks


def select(name: str, depth: int, count: int | None, **options: object) -> list[int]:
    found: list[int] = registry.get("selector", name).call({"depth": depth, "count": count}, options)
    return found


def test_llama_pro_golden() -> None:
    """LLaMA Pro 8B, arXiv 2401.02415: 8 of 40 blocks are new, at 4, 9, ..., 39 (scripts/block_expansion.py)."""
    chosen = select("uniform", 32, 8)
    assert chosen == [3, 7, 11, 15, 19, 23, 27, 31]
    placed = lay_out_blocks(32, chosen, "interleave")
    assert [i for i, block in enumerate(placed) if block.new] == [4, 9, 14, 19, 24, 29, 34, 39]
    assert [b.source for b in placed[:6]] == [0, 1, 2, 3, 3, 4]


def test_solar_golden() -> None:
    """SOLAR 10.7B, arXiv 2312.15166: blocks 0..23 of one copy, then 8..31 of the other: 48."""
    placed = lay_out_blocks(32, select("range", 32, None, start=8, stop=24), "block")
    assert [b.source for b in placed] == [*range(24), *range(8, 32)]
    assert [i for i, b in enumerate(placed) if b.new] == list(range(24, 40))


def test_yi_golden() -> None:
    """Yi-9B, arXiv 2403.04652: blocks 12..27 of 32 twice: 48; in the order of a run or each behind its source."""
    chosen = select("range", 32, 16, start=12, stop=28)
    block = lay_out_blocks(32, chosen, "block")
    assert [b.source for b in block] == [*range(28), *range(12, 32)]
    pairs = [i for i in range(12, 28) for _ in range(2)]
    assert [b.source for b in lay_out_blocks(32, chosen, "interleave")] == [*range(12), *pairs, *range(28, 32)]


@pytest.mark.parametrize(
    ("depth", "count", "expected"),
    [(28, 4, [6, 13, 20, 27]), (5, 2, [2, 4]), (5, 3, [1, 3, 4]), (4, 6, [0, 1, 1, 2, 3, 3]), (7, 1, [6])],
)
def test_uniform_where_the_groups_are_not_equal(depth: int, count: int, expected: list[int]) -> None:
    assert select("uniform", depth, count) == expected


@given(st.integers(1, 130), st.integers(1, 130))
def test_uniform_spreads_evenly(depth: int, count: int) -> None:
    chosen = select("uniform", depth, count)
    assert len(chosen) == count and chosen[-1] == depth - 1 and chosen == sorted(chosen)
    gaps = [b - a for a, b in zip([-1, *chosen], chosen, strict=False)]
    assert max(gaps) - min(gaps) <= 1


@given(st.data())
def test_the_old_blocks_keep_their_order(data: st.DataObject) -> None:
    depth = data.draw(st.integers(1, 40))
    chosen = data.draw(st.lists(st.integers(0, depth - 1), min_size=1, max_size=20, unique=True))
    for layout in ("interleave", "block"):
        placed = lay_out_blocks(depth, chosen, layout)  # type: ignore[arg-type]
        assert [b.source for b in placed if not b.new] == list(range(depth))
        assert [b.source for b in placed if b.new] == sorted(chosen)
        assert all(b.source in [p.source for p in placed[:i] if not p.new] for i, b in enumerate(placed) if b.new)


def test_at_copies_right_behind() -> None:
    placed = lay_out_blocks(4, select("at", 4, None, blocks="3,1,1"), "interleave")
    assert [(b.source, b.new) for b in placed] == [
        (0, False), (1, False), (1, True), (1, True), (2, False), (3, False), (3, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "count", "options", "problem"),
    [
        ("uniform", None, {}, "needs the number"),
        ("at", None, {"blocks": [4]}, "no block 4"),
        ("at", None, {"blocks": [-1]}, "no block -1"),
        ("at", None, {"blocks": []}, "no block is named"),
        ("at", 3, {"blocks": [1]}, "contradict"),
        ("at", None, {}, "needs the option 'blocks'"),
        ("range", None, {"start": 2, "stop": 2}, "no run"),
        ("range", None, {"start": 0, "stop": 5}, "no run"),
        ("range", 3, {"start": 0, "stop": 2}, "contradict"),
        ("range", None, {"start": 0, "end": 2}, "no option 'end'"),
        ("uniforn", 2, {}, "no selector 'uniforn'"),
    ],
)
def test_wrong_words(name: str, count: int | None, options: dict[str, object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        select(name, 4, count, **options)


def test_a_block_taken_twice_has_no_place_in_a_run() -> None:
    with pytest.raises(UsageError, match="block 1 is selected 2 times"):
        lay_out_blocks(4, [1, 1], "block")
