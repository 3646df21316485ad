"""FOCUS: sparsemax against other ways to the same point, rows by hand, and synonyms planted in real text."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from static_material import Said, new_of, tokenizer_file, write_vec
from vocab_material import documents

from surgeon.errors import SurgeonError, UsageError
from surgeon.progress import SILENT
from surgeon.vocab.hull import Combination
from surgeon.vocab.inits.focus import focus
from surgeon.vocab.sparsemax import sparsemax
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.vec_file import read_vec

OLD = tokenizer_file(["<s>", "▁blood", "▁heart", "▁table", "▁a"])


def dense(scores: np.ndarray) -> np.ndarray:
    out = np.zeros(len(scores))
    places, weights = sparsemax(scores)
    out[places] = weights
    return out


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
def test_sparsemax_is_the_projection_found_by_its_threshold(values: list[float]) -> None:
    """The simplex projection is max(z - tau, 0) with the tau at which that sums to 1: found here by bisection."""
    from scipy.optimize import brentq

    scores = np.asarray(values)
    tau = brentq(
        lambda t: np.maximum(scores - t, 0).sum() - 1, scores.max() - 1.1, scores.max() + 0.1, xtol=1e-15, rtol=1e-15
    )
    found = dense(scores)
    np.testing.assert_allclose(found, np.maximum(scores - tau, 0), rtol=0, atol=1e-12)
    assert abs(found.sum() - 1) < 1e-14
    assert (sparsemax(scores)[1] > 0).all()


def test_sparsemax_is_the_nearest_point_over_all_supports_and_that_of_a_solver() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    for _ in range(40):
        scores = rng.normal(size=5) * rng.choice([0.1, 1, 3])
        best, least = np.zeros(5), np.inf
        for size in range(1, 6):
            for support in combinations(range(5), size):
                point = np.zeros(5)
                held = scores[list(support)]
                point[list(support)] = held + (1 - held.sum()) / size  # the projection onto that face's plane
                if (point >= 0).all() and ((point - scores) ** 2).sum() < least:
                    best, least = point, ((point - scores) ** 2).sum()
        np.testing.assert_allclose(dense(scores), best, rtol=0, atol=1e-14)
        solved = minimize(
            lambda p, z: ((p - z) ** 2).sum(), np.full(5, 0.2), (scores,), method="SLSQP", bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1}, options={"ftol": 1e-14},
        )  # fmt: skip
        np.testing.assert_allclose(dense(scores), solved.x, rtol=0, atol=1e-6)


def test_hand_computed_weights(tmp_path: Path) -> None:
    """Cosines 1, 0.6, 0: the threshold is (1 + 0.6 - 1) / 2 = 0.3, so the weights are 0.7, 0.3, 0."""
    vectors = write_vec(
        tmp_path / "tokens.vec",
        {"</s>": [1, 1], "▁table": [0, 7], "▁blood": [2, 0], "▁cardio": [5, 0], "▁heart": [3, 4], "<s>": [1, 0]},
    )
    said = Said()
    new = new_of(5, ["▁cardio", "▁unseen"], [[4, 2], [4, 1, 4, 4]], [1, 2, 3, 4])
    given_rows = focus(new, OLD, said, vectors=vectors)
    assert isinstance(given_rows, Combination)
    given_rows.check(5, "focus")
    assert given_rows.offsets.tolist() == [0, 2, 4]
    assert given_rows.indices.tolist() == [1, 2, 4, 1]  # <s> is nearest and not usable
    torch.testing.assert_close(
        given_rows.weights, torch.tensor([0.7, 0.3, 0.75, 0.25], dtype=torch.float64), rtol=0, atol=1e-7
    )
    assert said.lines == ["focus: 1 of 2 new tokens have no vector: the mean of their pieces instead"]
    with pytest.raises(SurgeonError, match="1 of 2 new tokens have no vector, such as '▁unseen'"):
        focus(new, OLD, SILENT, vectors=vectors, missing="refuse")


def test_refusals(tmp_path: Path) -> None:
    vectors = write_vec(tmp_path / "tokens.vec", {"▁blood": [1, 0], "▁x": [0, 1]})
    old = new_of(5, ["▁x"], [[1]], [2, 3])
    with pytest.raises(SurgeonError, match="no old token has a vector"):
        focus(old, OLD, SILENT, vectors=vectors)
    with pytest.raises(SurgeonError, match="no new token has a vector"):
        focus(new_of(5, ["▁y"], [[1]], [1]), OLD, SILENT, vectors=vectors)
    with pytest.raises(UsageError, match="reads the target text"):
        focus(old, OLD, SILENT)
    for options in ({"min_count": 0}, {"window": 0}, {"dimensions": 1}, {"max_tokens": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            focus(new_of(5, ["▁x"], [[1]], [1], [[1, 5] * 20]), OLD, SILENT, **options)  # type: ignore[arg-type]


def test_vector_files_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "a.vec"
    path.write_bytes("3 2\none 1 2 \r\nnew york 0.5 -1e-3\nகண் 3 4\n".encode())
    found = read_vec(path)
    assert found.index == {"one": 0, "new york": 1, "கண்": 2}
    assert found.vectors.tolist() == [[1, 2], [0.5, float(np.float32(-1e-3))], [3, 4]]
    assert list(read_vec(path, 1).index) == ["one"]
    for raw, reason in [
        (b"", "first line"),
        (b"one 1 2\n", "first line"),
        (b"2 2\none 1 2\n", "ends before"),
        (b"1 2\none 1 2\ntwo 1 2\n", "more than the 1 words"),
        (b"2 2\none 1 2\none 1 3\n", "'one' stands twice"),
        (b"1 2\none 1 x\n", "not a UTF-8 word and 2 numbers"),
        (b"1 2\none 1\n", "not a"),
        (b"1 2\n\xff 1 2\n", "not a UTF-8 word"),
        (b"1 2\none 1 nan\n", "not finite"),
        (b"1 2\none 1 1e39\n", "not finite"),
        (b"0 2\n", "no vector"),
    ]:
        path.write_bytes(raw)
        with pytest.raises(SurgeonError, match=reason):
            read_vec(path)
    with pytest.raises(SurgeonError, match="cannot be read"):
        read_vec(tmp_path / "absent.vec")


def test_the_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    names = [f"▁w{i}" for i in range(3000)]
    vectors = write_vec(tmp_path / "tokens.vec", {name: rng.normal(size=64) for name in names})
    new = new_of(1800, names[1800:], [[0]] * 1200, range(1800))
    threads, found = torch.get_num_threads(), []
    for num in (1, 4):
        torch.set_num_threads(num)
        found.append(focus(new, tokenizer_file(names[:1800]), SILENT, vectors=vectors))
        assert torch.get_num_threads() == num
    torch.set_num_threads(threads)
    assert torch.equal(found[0].indices, found[1].indices)
    assert torch.equal(found[0].weights, found[1].weights)


@pytest.mark.material
def test_a_planted_synonym_leans_on_the_token_that_it_replaces(material: Path) -> None:
    """A new id in half of the places of a frequent word: no information but its company tells which word it was."""
    file = TokenizerFile.open(material / "models" / "base")
    tokenizer = file.load()
    text = [tokenizer.encode(t, add_special_tokens=False).ids for t in documents(material, "medical_en", 250)]
    counts = np.bincount(np.concatenate(text), minlength=4096)
    words = [t for t in file.ids.values() if t.startswith("▁") and len(t) > 4 and t[1:].isalpha()]
    planted = sorted((file.vocab[t] for t in words), key=lambda i: -counts[i])[:25]
    rng = np.random.default_rng(2)
    place = {i: 4096 + n for n, i in enumerate(planted)}
    mixed = [[place[i] if i in place and rng.random() < 0.5 else i for i in ids] for ids in text]
    names = [f"{file.ids[i]}-synonym" for i in planted]
    new = new_of(4096, names, [[i] for i in planted], range(3, 4096), mixed)
    found = focus(new, file, SILENT, dimensions=100)
    first = []
    for n in range(len(planted)):
        row = slice(int(found.offsets[n]), int(found.offsets[n + 1]))
        first.append(int(found.indices[row][found.weights[row].argmax()]))
    right = sum(a == b for a, b in zip(first, planted, strict=True))
    assert right >= 20, [(file.ids[a], file.ids[b]) for a, b in zip(planted, first, strict=True) if a != b]
