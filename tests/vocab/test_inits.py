"""The simple inits, each against an oracle of its own."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from vocab_material import documents, extended

from surgeon import registry
from surgeon.errors import UsageError
from surgeon.vocab.aligned import Aligned, Cut, overlaps
from surgeon.vocab.hull import Combination
from surgeon.vocab.tokens import NewTokens, old_pieces

OLD, WIDTH = 40, 6


def tokens(count: int, usable: range = range(3, OLD), pieces: tuple[int, ...] = (5, 6, 7)) -> NewTokens:
    return NewTokens(
        tuple(f"t{n}" for n in range(count)), tuple(range(OLD, OLD + count)), (pieces,) * count, tuple(usable)
    )


def embed(width: int = WIDTH) -> torch.Tensor:
    scales = torch.linspace(0.5, 4, width)
    return torch.randn(OLD, width, generator=torch.Generator().manual_seed(1)) * scales + 2


def call(name: str, new: NewTokens, **options: object) -> torch.Tensor | Combination:
    return registry.get("init", name).call({"new": new, "embed_VD": embed(), "seed": 0}, options)


def standard_errors(values: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> float:
    """How many standard errors the sample's means and variances are off, at most."""
    count = len(values)
    off = (values.mean(0) - mean) / (variance / count).sqrt()
    spread = (values.var(0) - variance) / (variance * (2 / (count - 1)) ** 0.5)
    return float(torch.cat([off, spread]).abs().max())


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_univariate_has_the_mean_and_variance_of_each_column_and_no_covariance(scale: float) -> None:
    rows = call("univariate", tokens(4000), scale=scale)
    assert isinstance(rows, torch.Tensor)
    old = embed()[3:].double()
    assert standard_errors(rows, old.mean(0), scale * old.var(0)) < 4
    off_diagonal = torch.corrcoef(rows.T) - torch.eye(WIDTH)
    assert float(off_diagonal.abs().max()) < 4 / 4000**0.5
    still = call("univariate", tokens(2), scale=0.0)
    torch.testing.assert_close(still, old.mean(0).expand(2, -1))


def test_gaussian_with_fewer_rows_than_columns_stays_in_their_span() -> None:
    """Sigma has rank 2 and is not positive definite: nothing is added to it."""
    rows = call("gaussian", tokens(4000, usable=range(3, 6)), scale=1.0)
    assert isinstance(rows, torch.Tensor)
    old = embed()[3:6].double()
    basis = torch.linalg.svd(old - old.mean(0))[2]
    assert float(((rows - old.mean(0)) @ basis[2:].T).abs().max()) < 1e-12
    variance = (old - old.mean(0)).T @ (old - old.mean(0)) / 2
    assert standard_errors(rows, old.mean(0), variance.diagonal()) < 4
    assert float((torch.cov(rows.T) - variance).abs().max()) < 0.1 * float(variance.diagonal().max())


def test_gaussian_is_scaled_in_variance() -> None:
    far, near = call("gaussian", tokens(50), scale=1.0), call("gaussian", tokens(50))
    assert isinstance(far, torch.Tensor) and isinstance(near, torch.Tensor)
    mean = embed()[3:].double().mean(0)
    torch.testing.assert_close((far - mean) * 1e-5**0.5, near - mean, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["gaussian", "univariate", "random"])
def test_rows_are_the_same_bytes_for_any_number_of_threads(name: str) -> None:
    """At a size where torch splits its work; what only rounds apart is another plan all the same."""
    old_VD = torch.randn(4000, 64, generator=torch.Generator().manual_seed(2))
    new = NewTokens(tuple("abcd"), (4000, 4001, 4002, 4003), ((5,),) * 4, tuple(range(4000)))
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            found.append(registry.get("init", name).call({"new": new, "embed_VD": old_VD, "seed": 0}, {}))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_random_rows_have_the_deviation_asked_for() -> None:
    rows = call("random", tokens(4000), sd=0.5)
    assert isinstance(rows, torch.Tensor)
    assert standard_errors(rows, torch.zeros(WIDTH), torch.full((WIDTH,), 0.25)) < 4
    assert not bool(call("zero", tokens(3)).any())  # type: ignore[union-attr]


def test_convex_hull_draws_uniformly_from_the_simplex() -> None:
    """Moments of Dirichlet(1, ..., 1): mean 1/k, variance (k - 1) / (k^2 (k + 1)); each row as often as any other."""
    given = call("convex_hull", tokens(3000), support=5)
    assert isinstance(given, Combination)
    weights = given.weights.reshape(3000, 5)
    assert standard_errors_of_mean(weights, 1 / 5) < 4
    assert float(weights.var(0).mean()) == pytest.approx(4 / (25 * 6), rel=0.05)
    counts = torch.bincount(given.indices, minlength=OLD)[3:].double()
    expected = 3000 * 5 / 37
    assert float((counts - expected).abs().max()) < 4.5 * expected**0.5
    peaked = call("convex_hull", tokens(200), support=5, concentration=1e4)
    assert isinstance(peaked, Combination) and float((peaked.weights - 0.2).abs().max()) < 0.01


def standard_errors_of_mean(values: torch.Tensor, mean: float) -> float:
    return float(((values.mean(0) - mean) / (values.std(0) / len(values) ** 0.5)).abs().max())


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, {5: 1 / 2, 6: 1 / 4, 7: 1 / 4}),
        ({"lean": "last"}, {5: 1.0}),
        ({"lean": "first"}, {7: 1.0}),
        ({"lean": "last", "decay": 0.5}, {7: 1 / 15, 5: 10 / 15, 6: 4 / 15}),
        ({"lean": "first", "decay": 0.5}, {7: 8 / 15, 5: 5 / 15, 6: 2 / 15}),
        ({"lean": "last", "decay": 1.0}, {5: 1 / 2, 6: 1 / 4, 7: 1 / 4}),
        ({"lean": "first", "mean_share": 0.25}, {7: 0.75}),
    ],
)
def test_subword_mean_weighs_pieces_by_place(options: dict[str, object], weights: dict[int, float]) -> None:
    """Pieces 7, 5, 6, 5 from first to last."""
    given = call("subword_mean", tokens(1, pieces=(7, 5, 6, 5)), **options)
    assert isinstance(given, Combination)
    given.check(OLD, "here")
    found = dict(zip(given.indices.tolist(), given.weights.tolist(), strict=True))
    assert found == pytest.approx(weights)
    share = options.get("mean_share", 0)
    assert (given.mean_weights is None) == (share == 0)
    if share:
        old = embed().double()
        torch.testing.assert_close(given.rows(embed())[0], 0.75 * old[7] + 0.25 * old[3:].mean(0))


def test_overlaps_are_of_bytes_and_count_crossing_tokens() -> None:
    """old |ab|cde|f|, new |abc|de|f|: the second old token crosses the first cut."""
    old, new = Cut([10, 11, 12], [0, 2, 5], [2, 5, 6]), Cut([20, 21, 22], [0, 3, 5], [3, 5, 6])
    assert list(overlaps(old, new, {20, 21, 22})) == [(20, (10, 11)), (21, (11,)), (22, (12,))]
    assert list(overlaps(old, new, {21})) == [(21, (11,))]


def test_align_weighs_by_occurrence() -> None:
    """Two ways to write one token, three times the first: by hand."""
    new = tokens(2)

    def aligned() -> list[tuple[Cut, Cut]]:
        one = (Cut([10, 11], [0, 1], [1, 2]), Cut([OLD], [0], [2]))
        other = (Cut([12, 12, 13, 10], [0, 1, 2, 3], [1, 2, 3, 4]), Cut([OLD], [0], [4]))
        return [one, other, one, one]

    method = registry.get("init", "align")
    given = method.call({"new": new, "aligned": aligned}, {})
    assert isinstance(given, Combination)
    given.check(OLD, "align")
    rows = [
        dict(zip(given.indices[a:b].tolist(), given.weights[a:b].tolist(), strict=True)) for a, b in ((0, 4), (4, 7))
    ]
    assert rows[0] == pytest.approx({10: (3 / 2 + 1 / 4) / 4, 11: 3 / 8, 12: 1 / 8, 13: 1 / 16})
    assert rows[1] == pytest.approx({5: 1 / 3, 6: 1 / 3, 7: 1 / 3})  # not in the text: its pieces
    shared = method.call({"new": new, "aligned": aligned}, {"mean_share": 0.5})
    assert torch.allclose(shared.weights, given.weights / 2) and shared.mean_weights.tolist() == [0.5, 0.5]
    with pytest.raises(UsageError, match="reads the target text"):
        method.call({"new": new, "aligned": None}, {})


@pytest.mark.material
@pytest.mark.parametrize(
    ("tokenizer", "target"), [("models/base", "medical_en"), ("models/base", "ta"), ("tokenizers/gpt2", "ta")]
)
def test_align_on_real_text_is_what_the_offsets_of_tokenizers_say(material: Path, tokenizer: str, target: str) -> None:
    """Counted a second way, by the characters that tokenizers reports; in Tamil these do not tell the bytes of a
    character apart, so there tokens of whole characters are compared."""
    old, learned, files = extended(material, tokenizer, target)
    texts = [f"x {text}" for text in documents(material, target)]  # SentencePiece's first space then has a place
    new = NewTokens(
        learned.tokens, tuple(files.file.vocab[t] for t in learned.tokens), old_pieces(old, learned.tokens), ()
    )
    given = registry.get("init", "align").call({"new": new, "aligned": Aligned(old, files.file, texts)}, {})
    given.check(10**6, "align")
    place = {i: n for n, i in enumerate(new.ids)}
    ways: dict[int, Counter[tuple[int, ...]]] = {i: Counter() for i in new.ids}
    before, after = old.load(), files.file.load()
    whole = {i for i in new.ids if "\ufffd" not in after.decode([i])}
    assert len(whole) > 20
    for text in texts:
        one, two = (t.encode(text, add_special_tokens=False) for t in (before, after))
        ids, owners = one.ids, [[] for _ in text]  # places of old tokens by character
        for n, (a, b) in enumerate(one.offsets):
            for character in range(a, b):
                owners[character].append(n)
        for token, (begin, end) in zip(two.ids, two.offsets, strict=True):
            if token in whole:
                held = [ids[n] for n in sorted({n for c in range(begin, end) for n in owners[c]})]
                ways[token][tuple(held)] += 1
    checked = 0
    for token in islice((t for t in new.ids if t in whole and ways[t]), 60):
        expected: Counter[int] = Counter()
        for way, count in ways[token].items():
            for piece in way:
                expected[piece] += count / len(way) / ways[token].total()  # type: ignore[assignment]
        n = place[token]
        a, b = int(given.offsets[n]), int(given.offsets[n + 1])
        found = dict(zip(given.indices[a:b].tolist(), given.weights[a:b].tolist(), strict=True))
        assert found == pytest.approx(dict(expected))
        assert math.fsum(found.values()) == pytest.approx(1)
        checked += 1
    assert checked > 15
