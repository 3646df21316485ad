"""The loss of Constrained Word2Vec against loops, its gradient against differences, its steps against Adam's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cw2v_material import LOSSES, NEW, OLD, WIDTH, drawn_for, loss_of, rng, some_rows, some_text, sparse_matrix

from surgeon.vocab.convex_rows import ConvexRows
from surgeon.vocab.dense_rows import DenseRows
from surgeon.vocab.skipgram import Matrix
from surgeon.vocab.skipgram_text import pairs
from surgeon.vocab.threads import spread


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
