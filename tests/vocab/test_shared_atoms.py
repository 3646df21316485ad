"""Shared atoms of Constrained Word2Vec: the best one against all others, their gradient, and what the init gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cw2v_material import (
    LOSSES,
    NEW,
    OLD,
    WIDTH,
    drawn_for,
    given,
    loss_of,
    rng,
    some_rows,
    some_text,
    some_tokens,
    sparse_matrix,
)

from surgeon.errors import UsageError
from surgeon.vocab.convex_rows import ConvexRows
from surgeon.vocab.inits.cw2v import _combination, matrix
from surgeon.vocab.shared_atoms import Schedule, SharedAtoms, best_atom
from surgeon.vocab.skipgram import Matrix, Objective, mean_loss, train
from surgeon.vocab.skipgram_text import Text, pairs
from surgeon.vocab.threads import spread


def atoms_of(one: Matrix) -> SharedAtoms:
    assert isinstance(one.learned, ConvexRows)
    return one.learned.atoms


def some_case(name: str) -> tuple[tuple[Matrix, Matrix], Any]:
    """Both matrices and, as a function, the loss with its gradients on the pairs of a text."""
    text = some_text(300)
    both = sparse_matrix(text, some_rows(1), 3), sparse_matrix(text, some_rows(2), 4)
    _, centre, context = next(pairs(text.codes, text.documents, text.rows >= 0, 3, 600, rng()))
    drawn = drawn_for(name, text, len(centre))
    return both, lambda: loss_of(*both, LOSSES[name], drawn, centre, context)


@pytest.mark.parametrize("name", LOSSES)
def test_the_best_atom_is_the_old_row_towards_which_the_loss_falls_fastest(name: str) -> None:
    both, loss = some_case(name)
    usable = torch.tensor([i for i in range(OLD) if i % 5])
    before, *gradients = loss()
    new = torch.from_numpy(both[0].text.rows >= 0)
    for one, gradient in zip(both, gradients, strict=True):
        learned, slopes = one.learned, []
        assert isinstance(learned, ConvexRows)
        for i in usable.tolist():  # every atom tried: the loss after a small part of the way to it
            learned.atoms = SharedAtoms(one.old_VD, torch.float64)
            learned.atoms.enter(i, 1e-7)
            slopes.append((loss()[0] - before) / 1e-7)
        learned.atoms = SharedAtoms(one.old_VD, torch.float64)
        with spread() as run:
            found = best_atom(one.old_VD, usable, gradient[new].sum(0), run)
        assert found == int(usable[int(np.argmin(slopes))])
        assert min(slopes) < 0


def test_the_best_atom_is_the_same_in_pieces_and_the_first_of_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    old = some_rows(1).bfloat16()
    old[30] = old[7]
    usable, gradient = torch.arange(OLD), -old[7].float() * 1e3
    monkeypatch.setattr("surgeon.vocab.shared_atoms._PIECE", 4 * WIDTH)
    with spread() as run:
        found = best_atom(old, usable, gradient, run)
        assert found == int((old.float() @ gradient).argmin())
        assert best_atom(old, torch.tensor([30, 7]), gradient, run) == 30


def test_entering_moves_every_row_its_share_of_the_way() -> None:
    (one, _), _ = some_case("shared")
    every, atoms = torch.arange(len(one.text.held)), atoms_of(one)
    with spread() as run:
        expected = one.learned.rows(every, run)
        for atom, share in ((4, 0.5), (9, 0.3), (4, 0.2)):
            atoms.enter(atom, share)
            expected = (1 - share) * expected + share * one.old_VD[atom]
            torch.testing.assert_close(one.learned.rows(every, run), expected, rtol=0, atol=1e-14)
    assert atoms.ids == [4, 9]


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_in_the_shares_is_that_of_finite_differences(name: str) -> None:
    both, loss = some_case(name)
    for one in both:
        atoms_of(one).enter(3, 0.4)
        atoms_of(one).enter(8, 0.3)
    _, *gradients = loss()
    new = torch.from_numpy(both[0].text.rows >= 0)
    for one, gradient in zip(both, gradients, strict=True):
        atoms, learned = atoms_of(one), one.learned
        assert isinstance(learned, ConvexRows)
        own = learned.values_MD[torch.from_numpy(one.text.rows)[new]]
        found, start = atoms.gradient(own, gradient[new]), atoms.logits
        for k in range(3):
            ends = []
            for step in (1e-6, -1e-6):
                atoms.logits = start.clone()
                atoms.logits[k] += step
                ends.append(loss()[0])
            atoms.logits = start
            assert float(found[k]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-7)


def test_steps_of_the_shares_are_those_of_torchs_adam() -> None:
    old, draw = some_rows(1), torch.Generator().manual_seed(8)
    atoms = SharedAtoms(old, torch.float64)
    atoms.enter(5, 0.4)
    atoms.enter(6, 0.2)
    expected = atoms.logits.clone().requires_grad_()
    adam = torch.optim.Adam([expected], lr=0.3)
    for _ in range(6):
        own, gradient = (torch.randn(9, WIDTH, generator=draw, dtype=torch.float64) for _ in range(2))
        leaf = own.clone().requires_grad_()
        adam.zero_grad()
        shares = expected.softmax(0)
        ((leaf * shares[0] + shares[1:] @ old[[5, 6]]) * gradient).sum().backward()
        torch.testing.assert_close(atoms.step(own, gradient), leaf.grad, rtol=0, atol=1e-14)
        adam.step()
        torch.testing.assert_close(atoms.logits, expected.detach(), rtol=0, atol=1e-12)


def test_the_moments_of_an_epoch_are_evenly_spaced_and_the_first_is_its_first() -> None:
    schedule, found = Schedule(torch.arange(3), 4), []
    for _ in range(2):
        schedule.begin_epoch()
        found.append([schedule.share(position, 100) for position in range(0, 100, 10)])
    at = [[n for n, share in enumerate(row) if share] for row in found]
    assert at == [[0, 3, 5, 8]] * 2
    assert [share for row in found for share in row if share] == pytest.approx([2 / (t + 4) for t in range(8)])


# --- the init -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_weights_with_atoms_are_convex_over_different_rows_and_unseen_tokens_keep_their_start(tied: bool) -> None:
    new = replace(some_tokens(some_text(), held_back=3), usable=tuple(range(2, OLD)))
    new = replace(new, pieces=tuple(tuple(max(i, 2) for i in row) for row in new.pieces))
    start, after = given(new, epochs=0, tied=tied), given(new, refresh=3, tied=tied)
    for one, other in zip(start, after, strict=True):
        other.check(OLD, "cw2v")
        assert int(other.indices.min()) >= 2
        rows = [range(a, b) for a, b in zip(other.offsets.tolist(), other.offsets[1:].tolist(), strict=False)]
        assert all(len(set(other.indices[list(row)].tolist())) == len(row) for row in rows)
        unseen = slice(int(one.offsets[NEW]), None), slice(int(other.offsets[NEW]), None)
        assert torch.equal(one.indices[unseen[0]], other.indices[unseen[1]])
        assert torch.equal(one.weights[unseen[0]], other.weights[unseen[1]])


def test_the_weights_give_the_rows_that_were_trained() -> None:
    text = some_text(2000)
    new = some_tokens(text)
    ids = torch.stack([torch.from_numpy(rng(n).permutation(OLD)[:12]) for n in range(NEW)])
    logits = torch.randn(NEW, 13, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    both = [matrix(some_rows(seed), new, text, ids, logits, torch.float64) for seed in (1, 2)]
    how: dict[str, Any] = {"window": 3, "batch": 512, "epochs": 2, "lr": 0.05, "threshold": 1.0}
    inputs, outputs = both
    train(inputs, outputs, rng(), Objective(), jumps=Schedule(torch.arange(OLD), 3), **how)
    for one in both:
        atoms = atoms_of(one).ids
        assert len(atoms) > 1
        assert bool((ids[:, :, None] == torch.tensor(atoms)).any())
        with spread() as run:
            rows = one.learned.rows(torch.arange(NEW), run)
        torch.testing.assert_close(_combination(one, new, ids, logits).rows(one.old_VD), rows, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bytes_with_atoms_for_any_number_of_threads(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgeon.vocab.shared_atoms._PIECE", 7 * WIDTH)
    new = some_tokens(some_text(3000))
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(given(new, dtype=dtype, refresh=3))
        finally:
            torch.set_num_threads(1)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.weights, b.weights)
        assert torch.equal(a.mean_weights, b.mean_weights)


def test_without_refresh_no_atom_enters_and_the_bytes_are_the_same() -> None:
    text, found = some_text(), []
    for jumps in (None, Schedule(torch.arange(OLD), 0)):
        both = [sparse_matrix(text, some_rows(seed), seed + 2) for seed in (1, 2)]
        inputs, outputs = both
        train(inputs, outputs, rng(), Objective(), window=3, batch=256, epochs=2, lr=0.05, threshold=1.0, jumps=jumps)
        assert [atoms_of(one).ids for one in both] == [[], []]
        found.append([one.learned.weights() for one in both if isinstance(one.learned, ConvexRows)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    with pytest.raises(UsageError, match="counts"):
        given(some_tokens(text), refresh=-1)


@pytest.mark.material
@pytest.mark.parametrize(("model", "corpus"), [("stories260K", "medical_en"), ("base", "ta")])
def test_atoms_lower_the_loss_on_a_real_model_and_text(material: Path, model: str, corpus: str) -> None:
    from safetensors.torch import load_file
    from vocab_material import documents, extended

    from surgeon.vocab.inits.cw2v import first_logits
    from surgeon.vocab.tokens import NewTokens, old_pieces

    old, learned, files = extended(material, f"models/{model}", corpus)
    tensors = load_file(material / "models" / model / "model.safetensors")
    embed = tensors["model.embed_tokens.weight"]
    head = tensors.get("lm_head.weight", embed)
    sequences = [files.file.load().encode(text).ids for text in documents(material, corpus)]
    ids, usable = tuple(range(len(embed), len(embed) + len(learned.tokens))), tuple(range(3, len(embed)))
    new = NewTokens(learned.tokens, ids, old_pieces(old, learned.tokens), usable, lambda: sequences)
    text = Text.read(new, "cw2v", 30_000, len(embed))
    start = first_logits(new, [[] for _ in ids], 32, 0.8, 0.1)
    losses = []
    for refresh in (0, 4):
        inputs = matrix(embed, new, text, *start)
        outputs = inputs if head is embed else matrix(head, new, text, *start)
        how: dict[str, Any] = {"window": 5, "batch": 2048}
        jumps = Schedule(torch.tensor(usable), refresh)
        train(inputs, outputs, rng(), Objective(), epochs=1, lr=0.01, threshold=1e-3, jumps=jumps, **how)
        losses.append(mean_loss(inputs, outputs, rng(9), Objective(), **how))
    assert losses[1] < losses[0] - 0.05
