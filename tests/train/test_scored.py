"""Objectives on scored documents: which score a label has, the formulas and their gradients, whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import STORY
from method_runs import check_new_rows, check_resume, cpt, same, weights
from tiny_models import model_of
from torch import Tensor

from surgeon.data.pack import IGNORED, Packed, Packing
from surgeon.data.source import parse_corpus
from surgeon.data.tokens import tokenise
from surgeon.errors import SurgeonError, UsageError
from surgeon.loading import load_tokenizer
from surgeon.registry import get
from surgeon.train.attention import Mode
from surgeon.train.batch import Batch, collate
from surgeon.train.forward import Forward

SCORES = (0.0, 2.5, -1.0, 0.5, 9.0)
METHODS = {
    "unlikelihood": "unlikelihood:threshold=0.5,weight={}",
    "reward_weighted": "reward_weighted:beta=2,weight={}",
}


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    path = tmp_path / "scored.jsonl"
    records = ({"text": text, "score": score} for text, score in zip(STORY, SCORES, strict=True))
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("packing", ["split", "whole", "concat"])
@pytest.mark.parametrize("size", [7, 16, 200])
def test_the_score_of_a_label_is_that_of_its_document(
    packing: Packing, size: int, scored: Path, stories: Path
) -> None:
    """Every token of a document is made its number, so a label tells its own document."""
    tokens = tokenise(parse_corpus(str(scored)), load_tokenizer(stories))
    number = np.repeat(np.arange(5, dtype=np.int32), np.diff(tokens.offsets))
    marked = type(tokens)("t", number, tokens.learn, tokens.offsets, False, 1)
    packed = Packed(marked, size, 0, 0, packing, scores=np.array(SCORES))
    seen = set()
    for at in range(2 * (tokens.num_tokens // size + 1)):
        window = packed.window(at)
        assert window.scores is not None and window.scores.shape == (size,)
        counts = window.labels != IGNORED
        assert (window.scores[counts] == np.array(SCORES)[window.labels[counts]]).all()
        seen |= set(window.labels[counts].tolist())
    assert seen == {0, 1, 2, 3, 4}
    assert Packed(marked, size, 0, 0, packing).window(0).scores is None


def a_batch(scored: Path, stories: Path) -> Batch:
    tokens = tokenise(parse_corpus(str(scored)), load_tokenizer(stories))
    packed = Packed(tokens, 48, 0, 0, "split", scores=np.array(SCORES))
    return collate([packed.window(n) for n in range(3)], torch.device("cpu"))


def by_autograd(model: Any, batch: Batch, of: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
    """of: (log-probabilities [tokens, V], labels) -> losses of tokens, in float64."""
    from surgeon.train import attention

    logits, labels = attention.logits(model, batch, "rows")
    logs = logits.double().log_softmax(-1).reshape(-1, logits.shape[-1])
    losses = of(logs, labels.reshape(-1).clamp(min=0))
    total = losses[labels.reshape(-1) != IGNORED].sum()
    return total, list(torch.autograd.grad(total, list(model.parameters())))


@pytest.mark.parametrize("mode", ["rows", "mask"])
@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("method", list(METHODS))
def test_loss_and_gradient_are_those_of_the_formula(
    method: str, weight: float, mode: Mode, scored: Path, stories: Path
) -> None:
    from surgeon.train.batch import by_segment

    model, batch = model_of("llama"), a_batch(scored, stories)
    arranged = by_segment(batch)
    assert arranged.scores is not None
    scores = arranged.scores.reshape(-1)

    def formula(logs: Tensor, labels: Tensor) -> Tensor:
        own = logs.gather(1, labels[:, None])[:, 0]
        if method == "reward_weighted":
            return -own * ((1 - weight) + weight * (-scores / 2).exp().nan_to_num(1.0))
        bad = scores > 0.5
        return torch.where(bad, -(1 - weight) * own - weight * 0.7 * torch.log1p(-own.exp()), -own)

    expected, gradients = by_autograd(model, batch, formula)
    options: dict[str, Any] = {"threshold": 0.5, "alpha": 0.7} if method == "unlikelihood" else {"beta": 2.0}
    found = Forward(model, mode).loss(batch, get("objective", method), options | {"weight": weight})
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for ours, theirs in zip(torch.autograd.grad(found, list(model.parameters())), gradients, strict=True):
        assert float((ours - theirs).norm()) <= 2e-5 * float(theirs.norm())


def test_a_bad_token_that_is_certain_keeps_its_gradient() -> None:
    """-log(1 - p) where p is 1 in float32: the authors' code clips there and its gradient is 0; ours is p."""
    from surgeon.train.objectives.unlikelihood import _Loss

    logits = torch.tensor([[100.0, 0.0, 1.0]])
    loss = _Loss(torch.tensor([0]), torch.tensor([True]), 1.0, 1.0)
    value, gradient = loss(logits.clone(), slice(0, 1), True)
    others = torch.logsumexp(torch.tensor([0.0, 1.0]), 0)
    assert gradient is not None and float(value) == pytest.approx(100 - float(others), rel=1e-6)
    expected = torch.tensor([1.0, *(-torch.softmax(torch.tensor([0.0, 1.0]), 0)).tolist()])
    assert torch.allclose(gradient[0], expected, rtol=1e-5)  # a log-probability of -100 is known to 4e-6


def test_texts_that_are_all_good_are_learned_to_the_byte(
    tiny: Callable[..., Path], scored: Path, tmp_path: Path
) -> None:
    model = tiny("llama")
    plain = cpt(model, tmp_path / "plain", scored)
    assert same(plain, cpt(model, tmp_path / "ul", scored, objective="unlikelihood:threshold=9"))


def test_rewards_have_a_greatest_one(scored: Path, stories: Path) -> None:
    model, batch = model_of("llama"), a_batch(scored, stories)
    forward, method = Forward(model, "mask"), get("objective", "reward_weighted")
    plain = float(forward.loss(batch, get("objective", "next_token"), {}))
    assert batch.scores is not None
    far = Batch(batch.ids, batch.positions, batch.labels, batch.lengths, batch.replay, batch.scores * 0 - 1e9)
    assert float(forward.loss(far, method, {"most": 7.0})) == pytest.approx(7 * plain, rel=1e-6)
    constant = Batch(batch.ids, batch.positions, batch.labels, batch.lengths, batch.replay, batch.scores * 0 + 3)
    assert float(forward.loss(constant, method, {})) == pytest.approx(np.exp(-0.3) * plain, rel=1e-6)


@pytest.mark.parametrize("train", ["full", r"layers\.2\."])
@pytest.mark.parametrize("method", list(METHODS))
def test_runs(method: str, train: str, tiny: Callable[..., Path], scored: Path, tmp_path: Path) -> None:
    model = tiny("llama", attention_dropout=0.1 if train == "full" else 0.0)
    words = {"train": train, "micro_batch": 2, "objective": METHODS[method].format(1)}
    whole = check_resume(model, tmp_path, scored, **words)
    plain, none = (
        cpt(model, tmp_path / n, scored, **words | {"objective": o})
        for n, o in (("plain", "next_token"), ("none", METHODS[method].format(0)))
    )
    assert same(plain, none) and not same(plain, whole)
    before, after = weights(model), weights(whole)
    assert all(bool(t.isfinite().all()) for t in after.values())
    if train != "full":
        assert {n for n in before if not torch.equal(before[n], after[n])} <= {n for n in before if "layers.2." in n}


@pytest.mark.parametrize("method", list(METHODS))
def test_new_rows_adapters_and_replay(
    method: str, tiny: Callable[..., Path], adapted: str, scored: Path, corpus: Path, tmp_path: Path
) -> None:
    words = {"objective": METHODS[method].format(1)}
    out = cpt(adapted, tmp_path / "out", scored, train="adapter", **words)
    assert not same(out, Path(adapted.split("+")[1]))
    # what is replayed has no scores, and is learned as it is
    cpt(tiny("llama", name="r"), tmp_path / "replayed", scored, replay=[f"old={corpus}"], replay_ratio=0.4, **words)
    check_new_rows(tiny("llama", name="n"), tmp_path, scored, **words)


def test_refusals(tiny: Callable[..., Path], corpus: Path, scored: Path, tmp_path: Path) -> None:
    model = tiny("llama")
    for objective, problem in (
        ("reward_weighted:field=worth", "no number in its field 'worth'"),
        ("unlikelihood", "needs the option 'threshold'"),
        ("reward_weighted:weight=2", "not valid"),
        ("reward_weighted:beta=0", "not valid"),
    ):
        with pytest.raises((SurgeonError, UsageError), match=problem):
            cpt(model, tmp_path / "out", scored, objective=objective)
    with pytest.raises(SurgeonError, match="no number in its field 'score'"):
        cpt(model, tmp_path / "out", corpus, objective="reward_weighted")
    assert not (tmp_path / "out").exists()
