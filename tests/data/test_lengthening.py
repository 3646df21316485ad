"""Rows that grow longer: each corpus is read once, in its order, and keeps to its share."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.data.lengthening import Lengthening
from surgeon.data.mixture import Mixture
from surgeon.data.pack import Packed, Packing, Window
from surgeon.data.tokens import Tokens

BATCH = 48
STAGES = [(3, 4, 12), (7, 8, 6), (12, 24, 2)]  # (steps up to the end, tokens of a row, rows of a step)


def corpora(count: int, packing: Packing = "split") -> list[Packed]:
    """No token has its equal in another place, so what was read can be told from the ids alone."""
    found = []
    for stream in range(count):
        lengths = [20, 31, 5, 9 + stream]
        ids = np.arange(sum(lengths), dtype=np.int32) + 1000 * (stream + 1)
        offsets = np.cumsum([0, *lengths]).astype(np.int64)
        tokens = Tokens(f"c{stream}", ids, np.ones(len(ids), np.bool_), offsets, False, len(ids))
        found.append(Packed(tokens, 24, 5, stream, packing))
    return found


def streams(windows: list[Window], count: int) -> list[list[int]]:
    """The ids of each corpus in the order in which they were read."""
    found: list[list[int]] = [[] for _ in range(count)]
    for window in windows:
        found[int(window.ids[0]) // 1000 - 1] += window.ids.tolist()
    return found


@pytest.mark.parametrize("packing", ["split", "concat"])
def test_between_stages_nothing_is_dropped_or_read_twice(packing: Packing) -> None:
    """Corpus by corpus the tokens are those of the stream that windows of a single token read."""
    packs = corpora(3, packing)
    batches = Lengthening(packs, [0.5, 0.3, 0.2], STAGES)
    windows = [w for step in range(12) for w in batches.batch(step)]
    assert [len(w.ids) for w in windows] == [4] * 36 + [8] * 24 + [24] * 10
    read = streams(windows, 3)
    for packed, ids in zip(packs, read, strict=True):
        single = packed.resized(1, 0)
        assert ids == [int(single.window(n).ids[0]) for n in range(len(ids))]
    assert sum(map(len, read)) == 12 * BATCH
    assert batches.tokens(12) == [len(ids) for ids in read]


def test_labels_go_on_behind_a_boundary() -> None:
    """In one document over two stages every token but the last of all is a label, once."""
    ids = np.arange(1, 200, dtype=np.int32)
    tokens = Tokens("c", ids, np.ones(199, np.bool_), np.array([0, 199]), False, 199)
    batches = Lengthening([Packed(tokens, 32, 0, 0, "split")], [1.0], [(1, 16, 4), (3, 32, 2)])
    windows = [w for step in range(3) for w in batches.batch(step)]
    assert [x for w in windows for x in w.ids.tolist()] == list(range(1, 193))
    assert [x for w in windows for x in w.labels.tolist()] == list(range(2, 194))


def test_a_batch_is_a_function_of_the_step() -> None:
    packs = corpora(3)
    one, two = (Lengthening(packs, [0.5, 0.3, 0.2], STAGES) for _ in range(2))
    late = {step: [w.ids.tolist() for w in two.batch(step)] for step in (11, 7, 6, 3, 2, 0)}
    assert {step: [w.ids.tolist() for w in one.batch(step)] for step in sorted(late)} == late
    assert [len(d["documents"]) > 0 for d in two.documents_of(11)] == [True, True]


def test_one_stage_is_the_plain_mixture() -> None:
    packs = corpora(2)
    plain, staged = Mixture(packs, [0.75, 0.25], 2), Lengthening(packs, [0.75, 0.25], [(9, 24, 2)])
    for step in range(9):
        assert [w.ids.tolist() for w in plain.batch(step)] == [w.ids.tolist() for w in staged.batch(step)]
    assert plain.tokens(9) == staged.tokens(9) and plain.documents_of(4) == staged.documents_of(4)


def test_whole_documents_are_no_stream() -> None:
    with pytest.raises(ValueError, match="no stream"):
        corpora(1, "whole")[0].resized(8, 0)


@given(
    weights=st.lists(st.floats(0.001, 1), min_size=1, max_size=7),
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=4, unique=True).map(sorted),
    steps=st.lists(st.integers(1, 12), min_size=4, max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_counts_are_within_a_row_of_their_share_at_every_row(
    weights: list[float], sizes: list[int], steps: list[int]
) -> None:
    shares = [w / sum(weights) for w in weights]
    batch = math.lcm(*sizes) if math.lcm(*sizes) < 2000 else math.prod(sizes[:2])
    sizes = [n for n in sizes if batch % n == 0]
    ends = np.cumsum(steps[: len(sizes)]).tolist()
    stages = [(end, size, batch // size) for end, size in zip(ends, sizes, strict=True)]
    assert all(a < b for a, b in pairwise(sizes))
    batches = Lengthening(corpora(len(shares)), shares, stages)
    read = [0] * len(shares)
    for step in range(ends[-1]):
        for window in batches.batch(step):
            read[int(window.ids[0]) // 1000 - 1] += len(window.ids)
            total = sum(read)
            assert all(abs(n - s * total) <= len(window.ids) for n, s in zip(read, shares, strict=True))
        assert batches.tokens(step + 1) == read


@given(
    weights=st.lists(st.lists(st.sampled_from([0, 1e-9, 0.3, 1, 2]), min_size=4, max_size=4), min_size=2, max_size=5),
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=4, unique=True).map(sorted),
    steps=st.lists(st.integers(1, 12), min_size=4, max_size=4),
    places=st.lists(st.floats(0.01, 0.99), min_size=4, max_size=4, unique=True).map(sorted),
)
@settings(max_examples=300, deadline=None)
def test_counts_are_within_a_row_of_shares_that_change(
    weights: list[list[float]], sizes: list[int], steps: list[int], places: list[float]
) -> None:
    shares = [[w / sum(of) for w in of] for of in weights if sum(of)] or [[0.25] * 4]
    batch = math.lcm(*sizes) if math.lcm(*sizes) < 2000 else math.prod(sizes[:2])
    sizes = [n for n in sizes if batch % n == 0]
    ends = np.cumsum(steps[: len(sizes)]).tolist()
    stages = [(end, size, batch // size) for end, size in zip(ends, sizes, strict=True)]
    # as a run has it: whole rows of the longest
    begins = sorted({round(place * ends[-1] * batch / sizes[-1]) * sizes[-1] for place in places} - {0})
    later = [(begin, of) for begin, of in zip(begins, shares[1:], strict=False) if begin < ends[-1] * batch]
    batches = Lengthening(corpora(4), shares[0], stages, later)
    read, due = [0] * 4, [0.0] * 4
    for step in range(ends[-1]):
        for window in batches.batch(step):
            size, total = len(window.ids), sum(read)
            number = sum(begin < total + size / 2 for begin, _ in later)
            due = [d + s * size for d, s in zip(due, [shares[0], *(of for _, of in later)][number], strict=True)]
            read[int(window.ids[0]) // 1000 - 1] += size
            assert all(abs(n - d) < size for n, d in zip(read, due, strict=True))
        assert batches.tokens(step + 1) == read
