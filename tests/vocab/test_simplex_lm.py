"""Weights fitted by the language model's loss: convex, better on unseen text, and nothing else is touched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from body_material import Case, case
from static_material import Said
from tiny import build
from vocab_models import body_folder

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.measure.perplexity import evaluate
from surgeon.ops.execute import execute
from surgeon.vocab.body import Body
from surgeon.vocab.certificate import check_hull
from surgeon.vocab.hull import Combination
from surgeon.vocab.inits.simplex_lm import simplex_lm
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.simplex import Simplex
from surgeon.vocab.tokens import NewTokens

SMALL: dict[str, Any] = {"steps": 12, "tokens_per_step": 512, "seq_len": 128, "candidates": 12}


def fitted(held: Case, said: Said | None = None, seed: int = 0, **options: Any) -> tuple[Combination, Combination]:
    return simplex_lm(held.new, held.body, held.tied, seed, said or Said(), **SMALL | options)


@pytest.mark.material
def test_it_predicts_unseen_text_better_than_the_mean_of_the_pieces(material: Path, tmp_path: Path) -> None:
    """From the command to the written checkpoint, on medical text that nothing was learned from."""
    model, corpus = str(material / "models" / "stories260K"), material / "corpora" / "medical_en.valid.jsonl"
    options: dict[str, Any] = {"steps": 30, "tokens_per_step": 1024, "seq_len": 128, "candidates": 16}
    found = {}
    for init, given in (("subword_mean", {}), ("simplex_lm", options)):
        out, test = tmp_path / init, str(material / "corpora" / "medical_en.train.jsonl")
        settings = ExtendVocabSettings(model=model, out=out, corpus=[str(corpus)], add=100, init=init, option=given)
        execute(plan_extend_vocab(settings), out, threads=1)
        report = check_hull(Checkpoint.open(out))
        assert report.claimed and report.holds
        scores = evaluate([str(out)], [test], tokens=4_000, device="cpu")
        found[init] = scores["models"][0]["corpora"][0]["bits_per_byte"]
    assert found["simplex_lm"] < found["subword_mean"] - 0.05


@pytest.mark.material
@pytest.mark.parametrize(("model", "steps"), [("stories260K", 12), ("base", 2)])
def test_the_loss_falls_and_the_model_stays(material: Path, model: str, steps: int) -> None:
    held, said = case(material, model), Said()
    before = {name: tensor.clone() for name, tensor in held.body.model.state_dict().items()}
    first, last = fitted(held, said, steps=steps)
    assert held.body.model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in held.body.model.state_dict().items())
    losses = [float(word) for word in said.lines[0].split(": ")[1].split()]
    assert len(losses) == min(steps, 10)
    assert steps == 2 or losses[-1] < losses[0] - 0.1
    for given in (first, last):
        given.check(len(held.input_VD), "here")
        assert set(given.indices.tolist()) <= set(held.new.usable)
    assert (first is last) == held.tied
    assert held.tied or not torch.equal(first.weights, last.weights)


@pytest.mark.material
def test_it_starts_from_the_pieces_and_depends_on_the_seed_alone(material: Path) -> None:
    held = case(material, "stories260K")
    start, _ = fitted(held, steps=0, candidates=0)
    places = list(zip(start.offsets[:-1].tolist(), start.offsets[1:].tolist(), strict=True))
    for pieces, (a, b) in zip(held.new.pieces, places, strict=True):
        shares = dict(zip(start.indices[a:b].tolist(), start.weights[a:b].tolist(), strict=True))
        assert shares == pytest.approx({i: 0.9 * pieces.count(i) / len(pieces) for i in pieces}, abs=1e-7)
    assert start.mean_weights is not None
    assert start.mean_weights.tolist() == pytest.approx([0.1] * len(held.new), abs=1e-7)
    one, other = fitted(held, steps=3)[0], fitted(held, steps=3, seed=1)[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = fitted(held, steps=3)[0]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one.weights, again.weights) and torch.equal(one.indices, again.indices)
    assert not torch.equal(one.weights, other.weights)


def test_the_rows_that_are_trained_are_the_rows_that_are_written() -> None:
    generator = torch.Generator().manual_seed(0)
    old, bias = torch.randn(20, 6, generator=generator), torch.randn(20, generator=generator)
    simplex = Simplex([{3: 0.5, 4: 0.2}, {9: 0.6}, {1: 0.1, 2: 0.2, 0: 0.3}], range(12), old, bias)
    with torch.no_grad():
        simplex.logits += torch.randn(simplex.logits.shape, generator=generator)
    written = simplex.combination()
    written.check(20, "here")
    assert written.indices.tolist() == [3, 4, 9, 1, 2, 0]
    torch.testing.assert_close(simplex.rows().double(), written.rows(old), rtol=0, atol=1e-6)
    given = simplex.biases()
    assert given is not None
    torch.testing.assert_close(given.double(), written.rows(bias), rtol=0, atol=1e-6)


def test_the_gradient_of_parts_is_that_of_the_whole_step(stories: Path, tmp_path: Path) -> None:
    """Adam's first step has the size of the learning rate and the sign of the gradient, computed here in one piece."""
    body = Body(body_folder(tmp_path / "body", stories, 60, 16), "cpu")
    text = torch.randint(3, 62, (6, 17), generator=torch.Generator().manual_seed(0))
    rows = [[1, *row[:16].tolist()][:16] for row in text]
    new = NewTokens(("x", "y"), (60, 61), ((5, 6), (7, 8)), tuple(range(3, 60)), lambda: [row[1:] for row in rows])
    options: dict[str, Any] = {"tokens_per_step": 96, "seq_len": 16, "candidates": 0, "max_tokens": 96}
    start, after = (simplex_lm(new, body, False, 0, Said(), steps=n, lr=1e-3, **options) for n in (0, 1))
    rows = [row for row in rows if {60, 61} & set(row)]
    model = body.model
    for side in (0, 1):
        weights = [torch.tensor([0.45, 0.45, 0.1]).log().repeat(2, 1) for _ in range(2)]
        weights[side].requires_grad_()
        matrices = []
        for logits, module in zip(weights, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
            share, old = torch.softmax(logits, 1), module.weight
            pieces = old[torch.tensor(new.pieces)]
            mean = old[torch.tensor(new.usable)].mean(0)
            matrices.append(torch.cat([old, torch.einsum("nk,nkd->nd", share[:, :2], pieces) + share[:, 2:] * mean]))
        names = {"model.embed_tokens.weight": matrices[0], "lm_head.weight": matrices[1]}
        ids = torch.tensor(rows)
        output = torch.func.functional_call(model, names, kwargs={"input_ids": ids}).logits[:, :-1]
        torch.nn.functional.cross_entropy(output.flatten(0, 1), ids[:, 1:].flatten()).backward()
        moved = (after[side].weights.reshape(2, 2).log() - start[side].weights.reshape(2, 2).log()).diff(dim=1)
        assert weights[side].grad is not None
        # of the difference of two logits only the gradients' signs remain
        expected = -1e-3 * weights[side].grad[:, :2].sign().diff(dim=1)
        torch.testing.assert_close(moved, expected.double(), rtol=0, atol=2e-6)


def test_rows_are_no_longer_than_the_context(stories: Path, tmp_path: Path) -> None:
    """Learned positions end there: a longer row would be an index out of range."""
    model = build("gpt2", tmp_path / "model", vocab_size=512)
    for path in stories.glob("tokenizer*"):
        shutil.copyfile(path, model / path.name)
    text = tmp_path / "text.txt"
    text.write_text("Haemoglobin carries oxygen; haemophilia is a disorder of clotting. " * 80, encoding="utf-8")
    settings = ExtendVocabSettings(
        model=str(model), out=tmp_path / "out", corpus=[str(text)], add=8, init="simplex_lm", option={"steps": 2}
    )
    plan_extend_vocab(settings)


@pytest.mark.material
def test_text_without_new_tokens_is_refused(material: Path) -> None:
    held = case(material, "stories260K")
    new = NewTokens(held.new.tokens, held.new.ids, held.new.pieces, held.new.usable, lambda: [[5] * 400])
    with pytest.raises(SurgeonError, match="no 128 tokens of the target text hold a new token"):
        simplex_lm(new, held.body, held.tied, 0, Said(), **SMALL)
