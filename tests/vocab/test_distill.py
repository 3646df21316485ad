"""Distilled rows: hidden states come nearer to those of the old pieces on unseen text, and nothing else moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from body_material import Case, case
from static_material import Said

from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute
from surgeon.vocab.inits.distill import distill
from surgeon.vocab.inits.subword_mean import subword_mean
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.tokens import NewTokens
from surgeon.vocab.twice import twice
from surgeon.vocab.windows import snippets, start_ids

SMALL: dict[str, Any] = {"num_snippets": 8, "snippet_length": 40, "relative_lr": 0.03}


def distilled(held: Case, seed: int = 0, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return distill(held.new, held.body, held.tied, seed, Said(), **SMALL | options)


def distance(held: Case, input_ND: torch.Tensor, output_ND: torch.Tensor, num: int = 8) -> float:
    """Mean squared difference of last hidden states in texts that were not trained on, by transformers alone; where
    both tokenizations have read the same text."""
    model, old, new = held.with_rows(input_ND, output_ND), held.old.load(), held.extended.load()
    total, count = 0.0, 0
    for text in held.rest[:num]:
        found = []
        for tokenizer in (old, new):
            encoding = tokenizer.encode(text[:400], add_special_tokens=False)
            ids, ends = [1, *encoding.ids], [end for _, end in encoding.offsets]
            with torch.no_grad():
                hidden = model.base_model(torch.tensor([ids])).last_hidden_state[0, 1:]
            # bytes of one character have one end: the last of them has read it
            found.append(dict(zip(ends, hidden, strict=True)))
        first = next(e for i, e in zip(encoding.ids, ends, strict=True) if i in held.new.ids)
        for end in found[0].keys() & found[1].keys():
            if end >= first:
                total += float((found[0][end] - found[1][end]).square().sum())
                count += hidden.shape[1]
    assert count > 1000
    return total / count


@pytest.mark.material
@pytest.mark.parametrize(("model", "ntp", "num", "gain"), [("stories260K", True, 8, 0.9), ("base", False, 3, 0.9)])
def test_hidden_states_of_unseen_text_come_nearer(
    material: Path, model: str, ntp: bool, num: int, gain: float
) -> None:
    held = case(material, model)
    before = {name: tensor.clone() for name, tensor in held.body.model.state_dict().items()}
    start = [subword_mean(held.new).rows(matrix) for matrix in (held.input_VD, held.output_VD)]
    after = distilled(held, ntp=ntp, num_snippets=num)
    assert distance(held, *after) < gain * distance(held, *start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in held.body.model.state_dict().items())
    assert after[0].dtype == torch.float64
    held_ids = {i for window in snippets(held.new, 40, num, 10**9, "distill") for i in window}
    moved = ((after[0] - start[0].float()) != 0).any(1).tolist()
    assert moved == [i in held_ids for i in held.new.ids]  # some are only steps towards longer ones
    if not held.tied:  # without a next-token loss output rows stay
        torch.testing.assert_close(after[1], start[1], rtol=1e-6, atol=1e-7)


@pytest.mark.material
def test_tied_rows_need_the_next_token_loss(material: Path) -> None:
    """A row that only matches hidden states predicts worse; with the scaled loss it predicts better than the mean."""
    held = case(material, "stories260K")

    def loss(rows: torch.Tensor) -> float:
        model, tokenizer = held.with_rows(rows, rows), held.extended.load()
        total, size = 0.0, 0
        for text in held.rest[:12]:
            ids = torch.tensor([[1, *tokenizer.encode(text[:600], add_special_tokens=False).ids]])
            with torch.no_grad():
                total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
            size += len(text[:600].encode())
        return total / size

    mean = loss(subword_mean(held.new).rows(held.input_VD))
    with_loss, without = (loss(distilled(held, ntp=ntp)[0]) for ntp in (True, False))
    assert with_loss < mean - 0.05
    assert with_loss < without - 0.03


@pytest.mark.material
def test_untied_output_rows_learn_to_predict_and_do_not_touch_the_input(material: Path) -> None:
    held = case(material, "base")
    options: dict[str, Any] = {"num_snippets": 1, "snippet_length": 24}
    alone, both = distilled(held, ntp=False, **options), distilled(held, ntp=True, **options)
    torch.testing.assert_close(both[0], alone[0], rtol=0, atol=1e-5)
    assert bool((both[1] != alone[1]).any(1).all())


@pytest.mark.material
def test_a_copy_of_an_old_token_is_already_right(material: Path) -> None:
    """A new token whose one piece is an old token: both readings are the same, the error is 0 and nothing moves."""
    held = case(material, "stories260K")
    first = len(held.input_VD)
    text = held.old.load().encode(held.rest[0], add_special_tokens=False).ids
    common = [i for i in dict.fromkeys(text) if i in held.new.usable][:4]
    as_new = {i: first + n for n, i in enumerate(common)}
    new = NewTokens(
        tuple("abcd"), tuple(as_new.values()), tuple((i,) for i in common), held.new.usable,
        lambda: [[as_new.get(i, i) for i in text]],
    )  # fmt: skip
    said = Said()
    rows, _ = distill(new, held.body, True, 0, said, ntp=False, **SMALL)
    assert torch.equal(rows, held.input_VD[common].double())
    assert set(said.lines[0].split(": ")[1].split()) == {"0"}


@pytest.mark.material
@pytest.mark.parametrize("model", ["stories260K", "base"])
def test_new_tokens_taken_apart_are_the_old_encoding(material: Path, model: str) -> None:
    """What the teacher reads is what the old tokenizer gives the text, position by position."""
    held = case(material, model)
    old, new = held.old.load(), held.extended.load()
    pieces = dict(zip(held.new.ids, held.new.pieces, strict=True))
    for text in held.rest:
        ids = new.encode(text, add_special_tokens=False).ids
        found = twice(ids, pieces, start_ids(held.body.path))
        assert found.new == [1, *ids]
        assert found.old == old.encode(text, add_special_tokens=True).ids
        assert sum(found.compared_new) == sum(found.compared_old) > 0
        ends = [[e for _, e in t.encode(text, add_special_tokens=False).offsets] for t in (new, old)]
        marks = found.compared_new[1:], found.compared_old[1:]
        at_new, at_old = ([e for e, mark in zip(*both, strict=True) if mark] for both in zip(ends, marks, strict=True))
        assert at_new == at_old  # both have read the text up to the same character


def test_only_positions_after_the_first_new_token_are_compared() -> None:
    found = twice([7, 90, 8, 91], {90: (3, 4, 5), 91: (6,)}, [1])
    assert found == ([1, 7, 90, 8, 91], [1, 7, 3, 4, 5, 8, 6], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1])


@pytest.mark.material
def test_windows_do_not_overlap_and_hold_every_token_often_enough(material: Path) -> None:
    held = case(material, "stories260K")
    found = list(snippets(held.new, 40, 3, 10**9, "distill"))
    text = list(held.new.text("distill"))
    held_by = {i: sum(i in window for window in found) for i in held.new.ids}
    occurrences = {i: sum(document.count(i) for document in text) for i in held.new.ids}
    assert all(count >= min(1, occurrences[i]) for i, count in held_by.items())
    assert all(len(window) <= 40 and set(window) & set(held.new.ids) for window in found)
    assert sum(map(len, found)) < sum(map(len, text))
    joined = [",".join(map(str, document)) for document in text]
    at, document = 0, 0
    for window in found:  # in order, each behind the one before
        piece = ",".join(map(str, window))
        while joined[document].find(piece, at) < 0:
            document, at = document + 1, 0
        at = joined[document].find(piece, at) + len(piece)


@pytest.mark.material
def test_the_same_bytes_for_a_seed_and_any_number_of_threads(material: Path) -> None:
    held = case(material, "stories260K")
    options: dict[str, Any] = {"num_snippets": 1}
    one, other = distilled(held, **options)[0], distilled(held, seed=1, **options)[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = distilled(held, **options)[0]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.material
def test_from_the_command_old_rows_keep_their_bytes(material: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, out = material / "models" / "stories260K", tmp_path / "out"
    corpus = str(material / "corpora" / "medical_en.valid.jsonl")
    settings = ExtendVocabSettings(
        model=str(model), out=out, corpus=[corpus], add=20, init="distill", option={"num_snippets": 2}
    )
    execute(plan_extend_vocab(settings), out, threads=1)
    before, after = load_file(model / "model.safetensors"), load_file(out / "model.safetensors")
    assert after["model.embed_tokens.weight"].shape == (532, 64)
    after["model.embed_tokens.weight"] = after["model.embed_tokens.weight"][:512]
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.material
def test_refusals(material: Path) -> None:
    held = case(material, "stories260K")
    with pytest.raises(UsageError, match="too small"):
        distilled(held, snippet_length=1)
    new = NewTokens(held.new.tokens, held.new.ids, held.new.pieces, held.new.usable, lambda: [[5] * 400])
    with pytest.raises(SurgeonError, match="holds none of the new tokens"):
        distill(new, held.body, True, 0, Said())
