"""Constrained Word2Vec: its weights, its start, its unseen rows, and that its loss falls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cw2v_material import NEW, OLD, SMALL, given, rng, some_rows, some_text, some_tokens
from safetensors.torch import load_file
from vocab_material import documents, extended

from surgeon.errors import UsageError
from surgeon.progress import SILENT
from surgeon.vocab.hull import Combination
from surgeon.vocab.inits.cw2v import cw2v, first_logits, matrix
from surgeon.vocab.inits.cw2v_dense import cw2v_dense
from surgeon.vocab.matrix import run_init
from surgeon.vocab.skipgram import Objective, mean_loss, train
from surgeon.vocab.skipgram_text import Text
from surgeon.vocab.tokens import NewTokens, old_pieces


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
