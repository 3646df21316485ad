"""Constrained Word2Vec: its loss against loops, its gradient against differences, its start and its unseen rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from vocab_material import documents, extended

from surgeon.errors import UsageError
from surgeon.progress import SILENT
from surgeon.vocab.convex_rows import ConvexRows
from surgeon.vocab.dense_rows import DenseRows
from surgeon.vocab.hull import Combination
from surgeon.vocab.inits.cw2v import cw2v, first_logits, matrix
from surgeon.vocab.inits.cw2v_dense import cw2v_dense
from surgeon.vocab.matrix import run_init
from surgeon.vocab.skipgram import Matrix, Objective, mean_loss, shared_negatives, summed_negatives, train
from surgeon.vocab.skipgram_text import Noise, Text, pairs
from surgeon.vocab.threads import spread
from surgeon.vocab.tokens import NewTokens, old_pieces

OLD, NEW, WIDTH = 40, 12, 10
SMALL: dict[str, Any] = {"candidates": 6, "batch": 256, "dimensions": 8}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def some_text(length: int = 900, seed: int = 1) -> Text:
    draw = rng(seed)
    weights = 1 / np.arange(1, OLD + NEW + 1)
    tokens = draw.permutation(OLD + NEW)[draw.choice(OLD + NEW, length, p=weights / weights.sum())]
    return Text.of(tokens, np.sort(draw.integers(0, 25, length)), tuple(range(OLD, OLD + NEW)))


def some_tokens(text: Text, held_back: int = 0) -> NewTokens:
    tokens = text.ids[text.codes]
    sequences = [part.tolist() for part in np.split(tokens, np.flatnonzero(np.diff(text.documents)) + 1)]
    pieces = tuple(tuple(row) for row in rng(2).integers(0, OLD, (NEW + held_back, 3)).tolist())
    ids = tuple(range(OLD, OLD + NEW + held_back))
    return NewTokens(tuple(f"t{i}" for i in ids), ids, pieces, tuple(range(OLD)), lambda: sequences)


def some_rows(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(OLD, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sparse_matrix(text: Text, old_VD: torch.Tensor, seed: int) -> Matrix:
    """Random logits over 5 random candidates and the mean."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, OLD, (NEW, 5), generator=draw)
    logits = torch.randn(NEW, 6, generator=draw, dtype=torch.float64)
    return matrix(old_VD, some_tokens(text), text, ids, logits, torch.float64)


def loss_of(
    inputs: Matrix, outputs: Matrix, loss: Any, drawn: np.ndarray, centre: np.ndarray, context: np.ndarray
) -> Any:
    every = torch.arange(len(inputs.text.ids))
    at = [torch.from_numpy(a) for a in (centre, context, drawn)]
    with spread() as run:
        return loss(inputs.rows(every, run), outputs.rows(every, run), *at, 3, run)


def drawn_for(name: str, text: Text, count: int) -> np.ndarray:
    return Noise(text.counts).draw((7,) if name == "shared" else (count, 3), rng(5))


LOSSES = {"shared": shared_negatives, "summed": summed_negatives}


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_that_of_plain_loops(name: str) -> None:
    text = some_text(60)
    inputs, outputs = sparse_matrix(text, some_rows(1), 3), sparse_matrix(text, some_rows(2), 4)
    _, centre, context = next(pairs(text.codes, text.documents, text.rows >= 0, 2, 500, rng()))
    drawn = drawn_for(name, text, len(centre))
    found, _, _ = loss_of(inputs, outputs, LOSSES[name], drawn, centre, context)

    def row(given: Matrix, code: int) -> list[float]:
        learned = given.learned
        assert isinstance(learned, ConvexRows)
        old = given.old_VD.tolist()
        if text.rows[code] < 0:
            return old[text.ids[code]]
        m = int(text.rows[code])
        powers = [math.exp(x) for x in learned.logits[m].tolist()]
        mean = [sum(column) / OLD for column in zip(*old, strict=True)]
        atoms = [*(old[c] for c in learned.candidates[m].tolist()), mean]
        return [sum(p * atom[d] for p, atom in zip(powers, atoms, strict=True)) / sum(powers) for d in range(WIDTH)]

    def dot(a: int, b: int) -> float:
        return sum(x * y for x, y in zip(row(inputs, a), row(outputs, b), strict=True))

    def log_sigma(x: float) -> float:
        return -math.log1p(math.exp(-x))

    expected = 0.0
    for n, (c, o) in enumerate(zip(centre.tolist(), context.tolist(), strict=True)):
        expected -= log_sigma(dot(c, o))
        if name == "shared":
            expected -= sum(log_sigma(-dot(c, k)) for k in drawn.tolist()) * 3 / len(drawn)
        else:
            expected -= log_sigma(-sum(dot(c, k) for k in drawn[n].tolist()))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_in_the_logits_is_that_of_finite_differences(name: str) -> None:
    text = some_text(200)
    inputs, outputs = sparse_matrix(text, some_rows(1), 3), sparse_matrix(text, some_rows(2), 4)
    _, centre, context = next(pairs(text.codes, text.documents, text.rows >= 0, 3, 300, rng()))
    drawn = drawn_for(name, text, len(centre))

    def loss() -> Any:
        return loss_of(inputs, outputs, LOSSES[name], drawn, centre, context)

    _, grad_in, grad_out = loss()
    new = torch.from_numpy(text.rows >= 0)
    for given, gradient in ((inputs, grad_in), (outputs, grad_out)):
        learned = given.learned
        assert isinstance(learned, ConvexRows)
        every = torch.arange(len(text.held))
        found = learned.logit_gradient(every, gradient[new][torch.from_numpy(text.rows)[new].argsort()])
        for m, k in [(0, 0), (3, 2), (5, 5), (8, 1), (9, 4)]:
            ends = []
            for step in (1e-6, -2e-6):
                learned.logits[m, k] += step
                learned._refresh(torch.tensor([m]))
                ends.append(loss()[0])
            learned.logits[m, k] += 1e-6
            learned._refresh(torch.tensor([m]))
            assert float(found[m, k]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_sparse_rows_with_full_support_are_the_dense_ones(name: str) -> None:
    text = some_text(300)
    logits = torch.randn(NEW, OLD, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    support = torch.arange(OLD).expand(NEW, OLD)
    no_mean = torch.full((NEW, 1), -torch.inf, dtype=torch.float64)
    held = torch.from_numpy(text.held)
    _, centre, context = next(pairs(text.codes, text.documents, text.rows >= 0, 3, 300, rng()))
    drawn = drawn_for(name, text, len(centre))
    found = []
    for kind in ("sparse", "dense"):
        both = []
        for seed in (1, 2):
            old = some_rows(seed)
            if kind == "sparse":
                learned: Any = ConvexRows(old, old.mean(0), support[held], torch.cat([logits, no_mean], 1)[held])
            else:  # A2 = 1 makes A1 the logits
                learned = DenseRows(old, logits, torch.eye(OLD, dtype=torch.float64), held)
            both.append(Matrix(old, learned, text, torch.float64))
        found.append((both, loss_of(*both, LOSSES[name], drawn, centre, context)))
    (sparse, (loss_a, *grads_a)), (dense, (loss_b, *grads_b)) = found
    assert loss_a == pytest.approx(loss_b, rel=1e-14)
    new = torch.from_numpy(text.rows >= 0)
    every = torch.from_numpy(text.rows)[new]
    with spread() as run:
        for a, b, grad_a, grad_b in zip(sparse, dense, grads_a, grads_b, strict=True):
            torch.testing.assert_close(a.learned.rows(every, run), b.learned.rows(every, run), rtol=0, atol=1e-12)
            torch.testing.assert_close(grad_a, grad_b, rtol=0, atol=1e-12)
            assert isinstance(a.learned, ConvexRows)
            assert isinstance(b.learned, DenseRows)
            in_logits = a.learned.logit_gradient(every, grad_a[new])
            a.learned.step(every, grad_a[new], 0.01, run)
            b.learned.step(every, grad_b[new], 0.01, run)
            assert b.learned.a1.grad is not None
            torch.testing.assert_close(in_logits[:, :-1], b.learned.a1.grad[held[every]], rtol=0, atol=1e-12)
            torch.testing.assert_close(a.learned.logits[:, :-1], b.learned.a1[held], rtol=0, atol=1e-10)


def test_steps_of_a_row_are_those_of_torchs_adam() -> None:
    old, draw = some_rows(1), torch.Generator().manual_seed(8)
    ids = torch.randint(0, OLD, (9, 4), generator=draw)
    logits = torch.randn(9, 5, generator=draw, dtype=torch.float64)
    learned = ConvexRows(old, old.mean(0), ids, logits)
    expected = logits.clone().requires_grad_()
    adam = torch.optim.Adam([expected], lr=0.03)
    which = torch.tensor([0, 2, 3, 7, 8])
    with spread() as run:
        for _ in range(6):
            gradient = torch.randn(9, WIDTH, generator=draw, dtype=torch.float64)
            learned.step(which, gradient[which], 0.03, run)
            rows = torch.cat([old[ids], old.mean(0).expand(9, 1, WIDTH)], 1)
            adam.zero_grad()
            ((expected.softmax(1)[:, :, None] * rows).sum(1) * gradient).sum().backward()
            adam.step()
        torch.testing.assert_close(learned.logits[which], expected.detach()[which], rtol=0, atol=1e-12)
        assert torch.equal(learned.logits[[1, 4, 5, 6]], logits[[1, 4, 5, 6]])
        mixed = (learned.weights()[:, :, None] * rows).sum(1)
        torch.testing.assert_close(learned.rows(torch.arange(9), run), mixed, rtol=0, atol=1e-14)


# --- the inits ------------------------------------------------------------------------------------------------------


def given(
    new: NewTokens, seed: int = 0, tied: bool = False, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    embed, head = some_rows(1, dtype), some_rows(2, dtype)
    return cw2v(new, embed, embed if tied else head, seed, SILENT, **SMALL | options)


def test_it_gives_both_matrices_from_one_training() -> None:
    new = some_tokens(some_text())
    first, second = given(new)
    assert not torch.equal(first.weights, second.weights)
    supply = {"new": new, "input_VD": some_rows(1).float(), "output_VD": some_rows(2).float(), "pair_seed": 0}
    for role, one in (("input", first), ("output", second)):
        again = run_init("cw2v", SMALL, supply | {"role": role, "progress": SILENT}, OLD)
        assert torch.equal(again.weights, one.weights)
    one, other = given(new, tied=True)
    assert one is other


@pytest.mark.parametrize("init", [given, lambda new: cw2v_dense(new, some_rows(1), some_rows(2), 0, SILENT, rank=4)])
def test_weights_are_convex_over_usable_rows(init: Callable[[NewTokens], tuple[Combination, Combination]]) -> None:
    for one in init(some_tokens(some_text(), held_back=2)):
        one.check(OLD, "cw2v")
        assert len(one) == NEW + 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bytes_for_any_number_of_threads(dtype: torch.dtype) -> None:
    new = some_tokens(some_text(3000))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            found.append(given(new, dtype=dtype))
        finally:
            torch.set_num_threads(1)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a.weights, b.weights)
            assert torch.equal(a.mean_weights, b.mean_weights)
    assert not torch.equal(given(new, seed=1, dtype=dtype)[0].weights, found[0][0].weights)


def test_tokens_that_the_text_does_not_hold_keep_their_start() -> None:
    new = some_tokens(some_text(), held_back=3)
    start, after = given(new, epochs=0)[1], given(new)[1]
    assert torch.equal(start.offsets, after.offsets)
    same = [
        bool((start.weights[a:b] == after.weights[a:b]).all())
        for a, b in zip(start.offsets, start.offsets[1:], strict=False)
    ]
    assert same == [False] * NEW + [True] * 3


def test_all_pieces_are_candidates_and_neighbours_fill_up() -> None:
    pieces = ((3, 4, 3), tuple(range(9)), (7,))
    new = NewTokens(("a", "b", "c"), (OLD, OLD + 1, OLD + 2), pieces, tuple(range(OLD)))
    ids, logits = first_logits(new, [[4, 20, 21, 22, 23], [30], []], 5, 0.8, 0.1)
    weights = logits.exp()
    rows = [[(int(i), float(w)) for i, w in zip(ids[n], weights[n], strict=False) if w > 0] for n in range(3)]
    assert [[i for i, _ in row] for row in rows] == [[3, 4, 20, 21, 22], list(range(9)), [7]]
    assert [w for _, w in rows[0]] == pytest.approx([0.8 * 2 / 3, 0.8 / 3, *[0.1 / 3] * 3])
    assert [w for _, w in rows[1]] == pytest.approx([0.9 / 9] * 9)
    assert weights[:, -1].tolist() == pytest.approx([0.1] * 3)


def test_sizes_that_a_dense_matrix_does_not_fit_are_refused() -> None:
    many = NewTokens(("a",) * 5000, tuple(range(5000)), ((0,),) * 5000, tuple(range(32000)))
    with pytest.raises(UsageError, match="GB"):
        cw2v_dense(many, torch.zeros(1, 1), torch.zeros(1, 1), 0, SILENT)


@pytest.mark.material
@pytest.mark.parametrize(("model", "corpus"), [("stories260K", "medical_en"), ("base", "ta")])
def test_the_loss_falls_on_a_real_model_and_text(material: Path, model: str, corpus: str) -> None:
    old, learned, files = extended(material, f"models/{model}", corpus)
    tensors = load_file(material / "models" / model / "model.safetensors")
    embed = tensors["model.embed_tokens.weight"]
    head = tensors.get("lm_head.weight", embed)
    sequences = [files.file.load().encode(text).ids for text in documents(material, corpus)]
    ids = tuple(range(len(embed), len(embed) + len(learned.tokens)))
    new = NewTokens(
        learned.tokens, ids, old_pieces(old, learned.tokens), tuple(range(3, len(embed))), lambda: sequences
    )
    text = Text.read(new, "cw2v", 30_000, len(embed))
    start = first_logits(new, [[] for _ in ids], 32, 0.8, 0.1)
    inputs = matrix(embed, new, text, *start)
    outputs = inputs if head is embed else matrix(head, new, text, *start)
    objective = Objective()
    how: dict[str, Any] = {"window": 5, "batch": 2048}
    losses = [mean_loss(inputs, outputs, rng(9), objective, **how)]
    for epoch in range(3):  # measured on the same pairs and negatives each time
        train(inputs, outputs, rng(epoch), objective, epochs=1, lr=0.03, threshold=1e-3, **how)
        losses.append(mean_loss(inputs, outputs, rng(9), objective, **how))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.1
    cw2v(new, embed, head, 0, SILENT, max_tokens=30_000)[1].check(len(embed), "cw2v")
