"""PPMI vectors against counting by hand and an exact SVD; neighbours against sorting all similarities."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from vocab_material import documents, extended

from surgeon.errors import SurgeonError
from surgeon.vocab.neighbours import neighbours
from surgeon.vocab.ppmi import ppmi, ppmi_vectors


def some_text(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.Generator(np.random.Philox(4))
    weights = 1 / np.arange(1, size + 1)
    return draw.choice(size, length, p=weights / weights.sum()) * 3, np.sort(draw.integers(0, length // 40, length))


def test_information_is_that_of_counted_pairs() -> None:
    tokens, numbers = some_text(500, 25)
    counts: Counter[tuple[int, int]] = Counter()
    for i, a in enumerate(tokens.tolist()):
        for j in range(max(0, i - 3), min(len(tokens), i + 4)):
            if i != j and numbers[i] == numbers[j]:
                counts[a, int(tokens[j])] += 1
    row = Counter[int]()
    for (a, _), count in counts.items():
        row[a] += count
    total, smooth = sum(row.values()), sum(count**0.75 for count in row.values())
    present, found = ppmi(tokens, numbers, 3)
    assert present.tolist() == sorted(set(tokens.tolist()))
    dense = found.toarray()
    for x, a in enumerate(present.tolist()):
        for y, b in enumerate(present.tolist()):
            chance = counts[a, b] / total
            value = math.log(chance / (row[a] / total * row[b] ** 0.75 / smooth)) if chance else 0.0
            assert dense[x, y] == pytest.approx(max(0.0, value), abs=1e-12)


def test_vectors_of_a_small_text_are_those_of_the_exact_svd() -> None:
    tokens, numbers = some_text(4800, 60)
    ids, vectors = ppmi_vectors(tokens, numbers, window=4, dimensions=20)
    present, matrix = ppmi(tokens, numbers, 4)
    left, values, _ = np.linalg.svd(matrix.toarray())
    expected = left[:, :20] * np.sqrt(values[:20])
    norms = np.linalg.norm(expected, axis=1, keepdims=True)
    expected = np.divide(expected, norms, out=np.zeros_like(expected), where=norms > 1e-12)
    assert np.array_equal(ids, present)
    assert vectors.shape == (len(present), 20)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, rtol=0, atol=1e-9)


@pytest.mark.material
def test_neighbours_on_a_real_text_are_those_of_the_exact_svd(material: Path) -> None:
    _, _, files = extended(material, "models/base", "medical_en")
    tokenizer = files.file.load()
    sequences = [tokenizer.encode(text).ids for text in documents(material, "medical_en")]
    tokens = np.concatenate([np.asarray(ids) for ids in sequences])
    numbers = np.repeat(np.arange(len(sequences)), [len(ids) for ids in sequences])
    new = [int(i) for i in np.unique(tokens) if i >= 4096]
    found = neighbours(tokens, numbers, new, range(3, 4096), window=5, num=10, dimensions=32)
    present, matrix = ppmi(tokens, numbers, 5)
    assert len(present) > 1024  # so not the dense branch
    left, values, _ = np.linalg.svd(matrix.toarray())
    vectors = left[:, :32] * np.sqrt(values[:32])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    old = np.flatnonzero((present >= 3) & (present < 4096))
    same = 0
    for i, mine in zip(new, found, strict=True):
        similar = vectors[old] @ vectors[np.searchsorted(present, i)]
        same += len(set(mine) & set(present[old[np.argsort(-similar)[:10]]].tolist()))
    assert same >= 0.99 * 10 * len(new)


def test_neighbours_are_the_nearest_with_ties_by_id() -> None:
    tokens, numbers = some_text(3000, 70)
    present, vectors = ppmi_vectors(tokens, numbers, window=3, dimensions=6)
    new, old = [9, 1000, 30], [i for i in range(0, 210, 3) if i not in (9, 30)]
    found = neighbours(tokens, numbers, new, old, window=3, num=7, dimensions=6)
    assert found[1] == []
    held = [i for i in old if i in present]
    for k in (0, 2):
        similar = vectors[np.searchsorted(present, held)] @ vectors[np.searchsorted(present, new[k])]
        assert found[k] == [held[i] for i in np.argsort(-similar, kind="stable")[:7]]


@pytest.mark.parametrize("size", [60, 1500])
def test_the_same_bytes_for_any_number_of_threads(size: int) -> None:
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(ppmi_vectors(*some_text(30 * size, size), window=4, dimensions=16)[1].tobytes())
        finally:
            torch.set_num_threads(1)
    assert found[0] == found[1]


def test_a_text_of_two_tokens_is_refused() -> None:
    with pytest.raises(SurgeonError, match="2 different tokens"):
        ppmi_vectors(np.array([1, 2, 1, 2]), np.zeros(4, dtype=np.int64), window=2, dimensions=4)
