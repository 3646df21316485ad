"""Masked language modelling: what is hidden, and that nothing leaks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import STORY
from encoders import bert_tokenizer, encoder_of, roberta_tokenizer

from surgeon.data.pack import IGNORED, Window
from surgeon.errors import SurgeonError
from surgeon.registry import get
from surgeon.train import attention
from surgeon.train.batch import collate
from surgeon.train.forward import Forward
from surgeon.train.masks import Masks, chooser, masks_of
from surgeon.train.word_worth import of_labels
from surgeon.train.words import Words

FAMILIES = ("bert", "roberta", "modernbert", "distilbert", "electra", "deberta-v2", "xlm-roberta")
CPU = torch.device("cpu")


def windows_of(tokenizer: Any, size: int = 64) -> list[Window]:
    """All stories in windows of `size`, two of them in the first one, and padding behind."""
    texts = [tokenizer(text).input_ids for text in STORY]
    found = []
    for group in (texts[1:3], texts[:1], texts[3:4], texts[4:]):
        lengths, ids = [len(t) for t in group], [i for t in group for i in t]
        held = np.zeros(size, dtype=np.int32)
        held[: len(ids)] = ids
        labels = np.full(size, IGNORED, dtype=np.int64)
        found.append(Window(held, labels, (*lengths, size - len(ids)), len(ids)))
    return found


def masks_for(tokenizer: Any, policy: str = "random", share: float = 0.15, **words: float) -> Masks:
    known = None if policy == "random" else Words(tokenizer)
    choose = chooser(policy, known, words)
    return masks_of(tokenizer, len(tokenizer), 7, (share, 0.8, 0.1), choose, known)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_transformers_document_by_document(family: str) -> None:
    tokenizer = roberta_tokenizer() if "roberta" in family else bert_tokenizer()
    sizes = {"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4} if family == "distilbert" else {}
    sizes |= {"attention_dropout": 0.0, "dropout": 0.0} if family == "distilbert" else {}
    model = encoder_of(family, tokenizer, **sizes)
    windows = masks_for(tokenizer, share=0.3).of(3, windows_of(tokenizer))
    assert attention.choose_padded(model) == "padded"
    with torch.no_grad():
        found = Forward(model, "padded").loss(collate(windows, CPU), get("objective", "masked_lm"), {})
        expected, hidden = 0.0, 0
        for window in windows:
            at = 0
            for length in window.lengths:
                ids, labels = (
                    torch.from_numpy(a[at : at + length].astype(np.int64))[None] for a in (window.ids, window.labels)
                )
                at, count = at + length, int((labels != IGNORED).sum())
                if count:
                    expected += float(model(input_ids=ids, labels=labels).loss) * count
                hidden += count
    assert hidden > 20
    assert float(found) == pytest.approx(expected, rel=2e-6)


def test_a_leak_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe is not blind: padding that is not masked, as in the way for decoders, is refused."""
    model = encoder_of("bert", bert_tokenizer())
    plain = attention.arranged

    def unmasked(batch: Any, mode: Any) -> Any:
        batch, arguments = plain(batch, mode)
        return batch, {k: v for k, v in arguments.items() if k != "attention_mask"}

    monkeypatch.setattr(attention, "arranged", unmasked)
    with pytest.raises(SurgeonError, match="padding changes"):
        attention.choose_padded(model)


@pytest.mark.parametrize("policy", ["random", "whole_word", "entity", "label_informative"])
@pytest.mark.parametrize("share", [0.15, 0.4])
def test_what_is_hidden(policy: str, share: float) -> None:
    tokenizer = bert_tokenizer()
    masks, before = masks_for(tokenizer, policy, share), windows_of(tokenizer)
    for step in range(20):
        for old, new in zip(before, masks.of(step, before), strict=True):
            hidden = new.labels != IGNORED
            assert (new.labels[hidden] == old.ids[hidden]).all() and (new.ids[~hidden] == old.ids[~hidden]).all()
            assert not np.isin(old.ids[hidden], tokenizer.all_special_ids).any() and not hidden[old.num_tokens :].any()
            assert new.lengths == old.lengths and new.num_tokens == old.num_tokens
            at = 0
            for length in old.lengths:
                part = slice(at, at + length)
                free = ~np.isin(old.ids[part], tokenizer.all_special_ids)
                free[max(0, old.num_tokens - at) :] = False
                budget = max(1, int(share * free.sum() + 0.5)) if free.any() else 0
                count = int(hidden[part].sum())
                if policy == "random":
                    assert count == budget
                else:
                    assert count <= budget
                if policy == "entity":
                    numbers = Words(tokenizer).numbers(old.ids[part].astype(np.int64))
                    assert len(set(numbers[hidden[part]])) == count == min(budget, len(set(numbers[free])))
                if policy in ("whole_word", "label_informative"):
                    numbers = Words(tokenizer).numbers(old.ids[part].astype(np.int64))
                    assert not set(numbers[hidden[part]]) & set(numbers[~hidden[part]])
                at += length


def test_eighty_ten_ten() -> None:
    """Of 40,000 hidden tokens: three standard deviations."""
    tokenizer = bert_tokenizer()
    usual = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    rng = np.random.default_rng(0)
    ids = rng.choice(usual, 1000).astype(np.int32)
    before = [Window(ids, np.full(1000, IGNORED), (1000,), 1000)] * 4
    masked = kept = other = 0
    for step in range(25):
        for window in masks_for(tokenizer, share=0.4).of(step, before):
            hidden = window.labels != IGNORED
            masked += int((window.ids[hidden] == tokenizer.mask_token_id).sum())
            kept += int((window.ids[hidden] == ids[hidden]).sum())
            changed = hidden & (window.ids != tokenizer.mask_token_id)
            other += int((window.ids[changed] != ids[changed]).sum())
            assert not np.isin(window.ids[changed], tokenizer.all_special_ids).any()
    assert masked + kept + other == 40_000
    by_chance = 0.1 / len(usual)  # another one that is the same one
    for count, share in ((masked, 0.8), (kept, 0.1 + by_chance), (other, 0.1 - by_chance)):
        assert abs(count / 40_000 - share) < 3 * math.sqrt(share * (1 - share) / 40_000)


def test_a_mask_hangs_on_seed_step_and_row_alone() -> None:
    tokenizer = bert_tokenizer()
    masks, held = masks_for(tokenizer), windows_of(tokenizer)
    first = masks.of(5, held)
    assert all((a.ids == b.ids).all() for a, b in zip(first, masks.of(5, held), strict=True))
    others = masks.of(5, [held[0], held[0], held[2]])
    assert (others[2].ids == first[2].ids).all() and (others[0].ids == first[0].ids).all()
    assert (others[1].labels != others[0].labels).any(), "another row"
    assert (masks.of(6, held)[0].labels != first[0].labels).any(), "another step"


@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer])
def test_words_are_those_of_the_tokenizer(make: Callable[[], Any]) -> None:
    tokenizer = make()
    words = Words(tokenizer)
    for text in STORY:
        encoded = tokenizer(text)
        theirs = [n for n in encoded.word_ids() if n is not None]
        ours = words.numbers(np.array(encoded.input_ids))[1:-1] - 1
        assert theirs == ours.tolist()
        assert "".join(words.spelt(np.array(encoded.input_ids))).lower() == text.replace(" ", "").lower()


def test_words_of_a_list_come_first() -> None:
    """Of a document the list's words are hidden before any other one: as many as there are, or as may be."""
    tokenizer = bert_tokenizer()
    words, listed = Words(tokenizer), {"lily", "dog", "park", "bird", "day", "sea", "red"}
    entity, informative = (masks_for(tokenizer, p, 0.12, **dict.fromkeys(listed, 1.0)) for p in ("entity", "whole"))
    for step in range(10):
        before = windows_of(tokenizer)[1:]  # a document each
        for old, new in zip(before, entity.of(step, before), strict=True):
            ids = old.ids[: old.lengths[0]].astype(np.int64)
            parts = words.numbers(ids)
            spelt = {n: words.text(tuple(ids[parts == n].tolist())) for n in set(parts.tolist())}
            hidden = [spelt[n] for n in parts[new.labels[: len(ids)] != IGNORED].tolist()]
            there = sum(w in listed for w in spelt.values())
            assert there and sum(w in listed for w in hidden) == min(len(hidden), there)
        for old, new in zip(before, informative.of(step, before), strict=True):
            ids, hidden = old.ids[: old.lengths[0]], new.labels[: old.lengths[0]] != IGNORED
            short = [t for t in listed if tokenizer.convert_tokens_to_ids(t) in ids]  # a token: it fits every budget
            found = tokenizer.convert_ids_to_tokens(ids[hidden].tolist())
            assert not short or set(found) & set(short) or any(t.startswith("##") for t in found)


def test_pmi(tmp_path: Path) -> None:
    """log p(word, y) / (p(word) p(y)), by hand: dog is in 3 documents of 4, 2 of them of label 1 (of 2)."""
    tokenizer = bert_tokenizer()
    path = tmp_path / "labelled.jsonl"
    records = [("the dog", 1), ("a dog", 1), ("dog and cat", 0), ("the bird", 0)]
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in records))
    run: Any = type("Run", (), {"tokenizer": tokenizer, "texts": {}})
    found = of_labels(run, Words(tokenizer), str(path), "label", 2)
    assert found == pytest.approx({"dog": math.log(2 / 4 / (3 / 4 * 2 / 4)), "the": 0.0})
    with pytest.raises(SurgeonError, match="no number"):
        of_labels(run, Words(tokenizer), str(path), "class", 2)
