"""What a step reads does not depend on how it is shared out; an epoch is the corpus; packing by concatenation."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.data.mixture import Mixture
from surgeon.data.pack import IGNORED, Packed, Packing, Window
from surgeon.data.tokens import Tokens

END = 1
PACKINGS: tuple[Packing, ...] = ("split", "whole", "concat")


def corpus(name: str, lengths: list[int], first: int) -> Tokens:
    """Documents of different tokens from `first` on, with the end token behind each; every third is no target."""
    ids, learn = [], []
    for length in lengths:
        ids += [*range(first, first + length), END]
        learn += [k % 3 > 0 for k in range(length)] + [True]
        first += length
    offsets = np.cumsum([0, *(n + 1 for n in lengths)]).astype(np.int64)
    return Tokens(name, np.array(ids, np.int32), np.array(learn), offsets, False, len(ids))


def plain(window: Window) -> tuple[bytes, bytes, bytes, tuple[int, ...], int]:
    return window.ids.tobytes(), window.labels.tobytes(), window.positions.tobytes(), window.lengths, window.num_tokens


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=12)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_partition_of_a_step_reads_the_same(data: st.DataObject) -> None:
    """Ranks in blocks of rows, each in micro-batches of any size, each with a mixture of its own; and at every step
    the counts are within one window of the target."""
    count, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    held = [corpus(f"c{i}", data.draw(LENGTHS), 2 + 1000 * i) for i in range(count)]
    kinds = [data.draw(st.sampled_from(PACKINGS)) for _ in held]
    weights = data.draw(st.lists(st.floats(0.05, 1), min_size=2 * count, max_size=2 * count))
    stages = [[w / sum(part) for w in part] for part in (weights[:count], weights[count:])]

    def fresh() -> Mixture:
        packs = [Packed(t, 8, 5, i, kind) for i, (t, kind) in enumerate(zip(held, kinds, strict=True))]
        return Mixture(packs, stages[0], rows, [(7, stages[1])])

    world = data.draw(st.integers(1, rows))
    micro = data.draw(st.integers(1, rows))
    whole, ranks = fresh(), [fresh() for _ in range(world)]
    bounds = [rows * rank // world for rank in range(world + 1)]
    for step in (4, 0, 3):
        parts = [
            window
            for rank, mixture in enumerate(ranks)
            for at in range(bounds[rank], bounds[rank + 1], micro)
            for window in mixture.batch(step, at, min(at + micro, bounds[rank + 1]))
        ]
        assert [plain(w) for w in parts] == [plain(w) for w in whole.batch(step)]
    for step in range(6):
        turns = step * rows
        due = [a * min(turns, 7) + b * max(turns - 7, 0) for a, b in zip(*stages, strict=True)]
        assert all(abs(c - d) < 1 for c, d in zip(whole.counts(step), due, strict=True))


@given(LENGTHS, st.integers(2, 16), st.sampled_from(PACKINGS), st.booleans())
@settings(max_examples=80, deadline=None)
def test_an_epoch_is_the_corpus_and_ends_are_labels(
    lengths: list[int], size: int, packing: Packing, sequential: bool
) -> None:
    held = corpus("c", lengths, 2)
    order = np.arange(len(lengths)) if sequential else None
    packed = Packed(held, size, 3, 0, packing, order)
    # as many windows as make whole epochs
    count = held.num_tokens if packing != "whole" else round(held.num_tokens / packed.tokens_per_window)
    epochs = size if packing != "whole" else 1
    windows = [packed.window(k) for k in range(count)]
    seen = np.concatenate([w.ids[: w.num_tokens] for w in windows])
    assert np.array_equal(np.sort(seen), np.sort(np.tile(held.ids, epochs)))
    labels = np.concatenate([w.labels for w in windows])
    assert (labels == END).sum() == len(lengths) * epochs
    documents = [packed.documents(k) for k in range(count)]
    for window, numbers in zip(windows, documents, strict=True):
        real = [n for n in window.ids[: window.num_tokens].tolist() if n != END]
        of = np.searchsorted(np.cumsum(lengths), np.array(real) - 2, side="right")
        assert set(of.tolist()) <= set(numbers)
        assert len(numbers) >= len(set(of.tolist()))


@given(LENGTHS, st.integers(2, 16))
@settings(max_examples=60, deadline=None)
def test_concatenation_is_one_stream(lengths: list[int], size: int) -> None:
    """The ids are those of `split`; each label is the next token of the stream, across documents and windows."""
    held = corpus("c", lengths, 2)
    packed, split = (Packed(held, size, 1, 0, kind) for kind in ("concat", "split"))  # type: ignore[arg-type]
    learn = dict(zip(held.ids.tolist(), held.learn.tolist(), strict=True))
    windows = [packed.window(k) for k in range(2 * held.num_tokens)]
    stream = np.concatenate([w.ids for w in windows]).tolist()
    assert stream == np.concatenate([split.window(k).ids for k in range(len(windows))]).tolist()
    labels = np.concatenate([w.labels for w in windows]).tolist()
    assert labels[:-1] == [n if learn[n] else IGNORED for n in stream[1:]]
    for window in windows:
        assert (window.lengths, window.num_tokens) == ((size,), size)
        assert window.positions.tolist() == list(range(size))


def test_the_documents_of_a_step_are_plain_data() -> None:
    packs = [
        Packed(corpus(n, [3, 2, 6], f), 7, 0, i, "split", np.arange(3))
        for i, (n, f) in enumerate((("a", 2), ("b", 50)))
    ]
    found = Mixture(packs, [0.5, 0.5], 2).documents_of(0)
    assert found == [
        {"corpus": "a", "window": 0, "documents": [0, 1]},
        {"corpus": "b", "window": 0, "documents": [0, 1]},
    ]
    assert Mixture(packs, [1.0, 0.0], 2).documents_of(0)[1] == {"corpus": "a", "window": 1, "documents": [2]}
