"""distill_hull: rows fitted to new text within what old text may lose, convex over old rows."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from body_material import Case, case
from static_material import Said
from vocab_material import documents
from vocab_models import body_folder

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.loading import load_model
from surgeon.ops.execute import execute
from surgeon.vocab.body import Body
from surgeon.vocab.budget import FITTED_HALF
from surgeon.vocab.hull import Combination
from surgeon.vocab.inits.distill_hull import distill_hull
from surgeon.vocab.old_loss import OldModel
from surgeon.vocab.part_gradients import draws
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.simplex import Simplex
from surgeon.vocab.tokens import NewTokens
from surgeon.vocab.twice import fitting
from surgeon.vocab.windows import drawn

SMALL: dict[str, Any] = {"num_snippets": 8, "steps": 18, "tokens_per_step": 256, "seq_len": 64}


def test_windows_are_drawn_evenly_and_the_same_again() -> None:
    def draw(seed: int, limit: int | None) -> list[int]:
        rng = np.random.Generator(np.random.Philox(seed))
        return [window[0] for window in drawn(([i] for i in range(20)), limit, rng)]

    assert draw(0, None) == draw(0, 20) == list(range(20))
    assert draw(0, 5) == draw(0, 5) != draw(1, 5)
    seen = Counter(i for seed in range(2000) for i in draw(seed, 5))
    assert all(len(set(draw(seed, 5))) == 5 for seed in range(20))
    assert all(abs(seen[i] - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for i in range(20))


def test_a_window_is_cut_where_its_old_form_is_too_long() -> None:
    pieces = {100: (1, 2, 3), 101: (4, 5)}
    assert fitting([9, 100, 101, 8], pieces, None) == fitting([9, 100, 101, 8], pieces, 7) == [9, 100, 101, 8]
    assert fitting([9, 100, 101, 8], pieces, 6) == [9, 100, 101]
    assert fitting([9, 100, 101, 8], pieces, 5) == [9, 100]
    assert fitting([9, 100], pieces, 3) == [9]


def test_a_step_goes_down_the_loss_of_both_texts(stories: Path, tmp_path: Path) -> None:
    """Adam's first step has the sign of the gradient, which is computed here from transformers' logits alone."""
    body = Body(body_folder(tmp_path / "body", stories, 60, 16), "cpu")
    model = body.model
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    draw = torch.Generator().manual_seed(0)
    text = [[1, *row] for row in torch.randint(3, 62, (6, 15), generator=draw).tolist()]
    probe = torch.randint(3, 60, (5, 20), generator=draw).tolist()
    new = NewTokens(("x", "y"), (60, 61), ((5, 6), (7, 8)), tuple(range(3, 60)), lambda: [row[1:] for row in text])
    options: dict[str, Any] = {"tokens_per_step": 96, "seq_len": 16, "max_tokens": 96, "num_snippets": 2, "quiet": 3}

    def fitted(steps: int) -> tuple[Any, Combination]:
        return distill_hull(new, body, False, 0, Said(), lambda: probe, 0.02, steps=steps, lr=1e-3, **options)

    (rows, start), (trained, after) = fitted(0), fitted(1)
    assert torch.equal(start.indices, after.indices)
    held = [row for row in text if {60, 61} & set(row)]
    with torch.no_grad():
        hidden = body.hidden_states(lambda: probe, 1000, FITTED_HALF)
    rng = np.random.Generator(np.random.Philox(0))
    next(draws(len(held), 6, 1, rng))
    at = torch.from_numpy(next(draws(len(hidden), len(hidden) // 4, 1, rng)))
    weights = torch.zeros(2, 60, dtype=torch.float64)
    for n, (a, b) in enumerate(zip(start.offsets[:-1].tolist(), start.offsets[1:].tolist(), strict=True)):
        weights[n, start.indices[a:b]] = start.weights[a:b]
    assert start.mean_weights is not None and after.mean_weights is not None
    full = torch.cat([weights, start.mean_weights[:, None]], 1).log().requires_grad_()
    shares = torch.softmax(full, 1).float()
    old = model.get_output_embeddings().weight
    made = shares[:, :60] @ old + shares[:, 60:] * old[3:60].mean(0)
    inputs = rows.float().requires_grad_()
    names = {
        "model.embed_tokens.weight": torch.cat([model.get_input_embeddings().weight, inputs]),
        "lm_head.weight": torch.cat([old, made]),
    }
    ids = torch.tensor(held)
    logits = torch.func.functional_call(model, names, kwargs={"input_ids": ids}).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    both = torch.cat([hidden[at] @ old.T, hidden[at] @ made.T], 1).logsumexp(1) - (hidden[at] @ old.T).logsumexp(1)
    (loss + 5 * both.mean()).backward()
    assert full.grad is not None and inputs.grad is not None
    size = float(model.get_input_embeddings().weight.square().mean().sqrt())
    step = -0.02 * size * inputs.grad / (inputs.grad.abs() + 1e-8)
    torch.testing.assert_close((trained - rows).float(), step, rtol=0, atol=1e-3 * 0.02 * size)
    for n, (a, b) in enumerate(zip(start.offsets[:-1].tolist(), start.offsets[1:].tolist(), strict=True)):
        moved = (
            torch.cat([after.weights[a:b], after.mean_weights[n : n + 1]]).log()
            - torch.cat([start.weights[a:b], start.mean_weights[n : n + 1]]).log()
        )
        gradient = full.grad[n, [*start.indices[a:b].tolist(), 60]]
        expected = -1e-3 * gradient / (gradient.abs() + 1e-8)  # Adam's own epsilon
        torch.testing.assert_close(moved - moved[-1], expected - expected[-1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("block", [1, 1 << 24])
def test_the_old_rows_that_join_are_those_towards_which_the_loss_falls_most(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Against all of them, one at a time in float64; what is held, or climbs, does not join."""
    monkeypatch.setattr("surgeon.vocab.simplex._ELEMENTS", block)
    draw = torch.Generator().manual_seed(1)
    old, gradient = torch.randn(12, 5, generator=draw), torch.randn(3, 5, generator=draw)
    gradient[2] = 0
    usable = range(2, 12)
    held = [{3: 0.5, 4: 0.2}, {9: 0.6}, {2: 0.1}]
    simplex = Simplex(held, usable, old, None, room=9)
    before = simplex.rows().detach().double()
    expected = []
    for row, from_, steep in zip(held, before, gradient.double(), strict=True):
        falls = sorted((float(steep @ (old[i].double() - from_)), i) for i in usable if i not in row)
        expected.append([i for fall, i in falls[:3] if fall < 0])
    assert expected[0] and expected[1] and not expected[2]
    simplex.join(gradient, 3, 0.01)
    given = simplex.combination()
    given.check(12, "here")
    assert given.mean_weights is not None
    ends = given.offsets.tolist()
    for n, (row, joined) in enumerate(zip(held, expected, strict=True)):
        whole = 1 + 0.01 * len(joined)
        wanted = {i: w / whole for i, w in row.items()} | dict.fromkeys(joined, 0.01 / whole)
        indices, weights = (t[ends[n] : ends[n + 1]].tolist() for t in (given.indices, given.weights))
        assert dict(zip(indices, weights, strict=True)) == pytest.approx(wanted, abs=1e-6)
        assert given.mean_weights[n] == pytest.approx((1 - sum(row.values())) / whole, abs=1e-6)
    torch.testing.assert_close(given.rows(old).float(), simplex.rows().detach())
    simplex.join(gradient, 9, 0.01)  # more than are left
    assert len(set(simplex.ids_NK[0, : simplex.lengths[0]].tolist())) == simplex.lengths[0]


@pytest.mark.material
def test_old_rows_join_and_input_rows_learn(material: Path) -> None:
    held = case(material, "stories260K")

    def fitted(**options: Any) -> tuple[torch.Tensor, Combination]:
        words = SMALL | {"steps": 20, "lr": 0.1} | options
        return distill_hull(held.new, held.body, False, 0, Said(), probe_of(held), 0.02, **words)  # type: ignore[return-value]

    plain, joined = fitted(join=0), fitted(join=2)
    counts = [given.offsets.diff() for _, given in (plain, joined)]
    more = counts[1] - counts[0]
    assert int(more.min()) >= 0 and int(more.max()) == 2  # one round in 20 steps
    assert torch.equal(fitted(join=0, relative_lr=0.0)[0], fitted(steps=0)[0])
    assert not torch.equal(plain[0], fitted(steps=0)[0])


@pytest.mark.material
@pytest.mark.parametrize("tied", [True, False])
def test_rows_depend_on_the_seed_alone(material: Path, tied: bool) -> None:
    """And not on the number of threads; the model stays as it is."""
    held = case(material, "stories260K")
    before = {name: tensor.clone() for name, tensor in held.body.model.state_dict().items()}

    def rows(seed: int) -> list[torch.Tensor]:
        first, last = distill_hull(held.new, held.body, tied, seed, Said(), probe_of(held), 0.02, **SMALL)
        last.check(len(held.input_VD), "here")
        assert set(last.indices.tolist()) <= set(held.new.usable)
        assert isinstance(first, Combination) == tied and (first is last) == tied
        return [g.rows(held.output_VD) if isinstance(g, Combination) else g for g in (first, last)]

    one, other = rows(0), rows(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = rows(0)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, one, again))
    assert not torch.equal(one[1], other[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in held.body.model.state_dict().items())


def probe_of(held: Case) -> Any:
    tokenizer = held.old.load()
    text = "Once upon a time there was a little girl named Lily. She loved to play outside in the park with her dog. "
    return lambda: [tokenizer.encode(text * 3, add_special_tokens=False).ids]


@pytest.mark.material
def test_a_higher_price_costs_old_text_less(material: Path) -> None:
    held = case(material, "stories260K")
    tokenizer = held.old.load()
    texts = [tokenizer.encode(t, add_special_tokens=False).ids for t in documents(material, "stories_en", 8)]
    with torch.no_grad():
        hidden = held.body.hidden_states(lambda: texts, 2000)
        old = OldModel.measure(held.body.head, hidden, [])
    lost = []
    for limit in (1.0, 0.001):
        _, last = distill_hull(held.new, held.body, True, 0, Said(), lambda: texts, limit, **SMALL | {"steps": 40})
        logits = hidden.double() @ last.rows(held.output_VD).T
        lost.append(float((logits.logsumexp(1) - old.log_z).exp().log1p().mean()))
    assert lost[1] < 0.75 * lost[0]


@pytest.mark.material
def test_text_without_new_tokens_is_refused(material: Path) -> None:
    held = case(material, "stories260K")
    first = held.new.ids[0]
    short = NewTokens(held.new.tokens, held.new.ids, held.new.pieces, held.new.usable, lambda: [[5, first] * 20])
    distill_hull(short, held.body, held.tied, 0, Said(), probe_of(held), 0.02, **SMALL)  # shorter than a row
    new = NewTokens(held.new.tokens, held.new.ids, held.new.pieces, held.new.usable, lambda: [[5] * 400])
    with pytest.raises(SurgeonError, match="holds none of the new tokens"):
        distill_hull(new, held.body, held.tied, 0, Said(), probe_of(held), 0.02, **SMALL)


@pytest.mark.material
def test_old_text_is_measured_on_windows_that_the_fit_has_not_read(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the lineage says is what the written model loses there; rows that are not fitted use the whole probe."""
    read: list[list[list[int]]] = []
    windows = Body._windows

    def seen(self: Body, sequences: Any, most: int, half: int | None) -> list[list[int]]:
        found = windows(self, sequences, most, half)
        read.extend([found] if most > 1 else [])  # one alone is a look whether there is any
        return found

    monkeypatch.setattr(Body, "_windows", seen)
    model, probe, text = material / "models" / "stories260K", tmp_path / "probe.jsonl", tmp_path / "text.jsonl"
    for name, to, lines in (("stories_en", probe, 8), ("medical_en", text, 20)):
        with (material / "corpora" / f"{name}.valid.jsonl").open(encoding="utf-8") as source:
            to.write_text("".join(islice(source, lines)), encoding="utf-8")
    settings: dict[str, Any] = {"model": str(model), "corpus": [str(text)], "probe": [str(probe)]}
    settings |= {"add": 60, "untie": True}
    words = SMALL | {"lr": 0.2, "max_windows": 64}
    plan = plan_extend_vocab(
        ExtendVocabSettings(out=tmp_path / "out", device="cpu", init="distill_hull", option=words, **settings)
    )
    execute(plan, tmp_path / "out", threads=1)
    fitted, measured = (set(map(tuple, part)) for part in read)
    assert fitted and measured and not fitted & measured
    lineage = Checkpoint.open(tmp_path / "out").lineage
    assert lineage is not None and lineage.rows is not None and lineage.rows.calibration is not None
    models = [load_model(p, device=torch.device("cpu"), dtype=torch.float32) for p in (model, tmp_path / "out")]
    lost = []
    with torch.no_grad():
        for window in read[1]:
            before, after = (m(torch.tensor([window])).logits[0, :-1].double().logsumexp(1) for m in models)
            lost += (after - before).tolist()
    assert lineage.rows.calibration["positions"] == len(lost)
    assert lineage.rows.calibration["loss_increase"] == pytest.approx(float(np.mean(lost)), rel=1e-3)
    plan_extend_vocab(ExtendVocabSettings(out=tmp_path / "pieces", device="cpu", init="weighted_pieces", **settings))
    assert set(map(tuple, read[2])) == fitted | measured
