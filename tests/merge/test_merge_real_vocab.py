"""Merging with vocabularies that extend-vocab made: padded, extended twice, every kind of init, tied and untied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from merge_models import expanded, logits, merged, same_tensors, tensors, trained

from surgeon.ops.execute import execute
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings

FIRST = ["dragonfly", "windmill", "butterscotch", "marmalade", "thunderstorm"]
SECOND = ["helicopter", "strawberry", "rhinoceros"]


def with_words(parent: Path, out: Path, words: list[str], **settings: object) -> Path:
    file = out.parent / f"{out.name}.txt"
    file.write_text("\n".join(words) + "\n")
    execute(plan_extend_vocab(ExtendVocabSettings(model=str(parent), out=out, tokens=file, **settings)), out)
    return out


@pytest.mark.parametrize("init", ["subword_mean", "gaussian", "convex_hull", "mean"])
def test_an_untrained_extension_is_its_own_reference(stories: Path, tmp_path: Path, init: str) -> None:
    wide = with_words(stories, tmp_path / "wide", FIRST, init=init, pad_to_multiple_of=64)
    deep = expanded(wide, tmp_path / "deep", [2])
    wider = with_words(deep, tmp_path / "wider", SECOND, init=init, use_padding=True)  # takes rows out of the padding
    assert tensors(wider)["model.embed_tokens.weight"].shape == tensors(wide)["model.embed_tokens.weight"].shape
    assert same_tensors(merged(tmp_path / "half", stories, {wider: 0.5}), wider)
    domain = trained(wider, tmp_path / "domain", 1)
    assert same_tensors(merged(tmp_path / "zero", stories, {domain: 0.0}), wider)
    instruct = trained(stories, tmp_path / "instruct", 2)
    out = merged(tmp_path / "out", stories, {instruct: 1.0, domain: 0.0})
    assert torch.equal(logits(out)[..., :512], logits(instruct))
    found, rows = tensors(out)["model.embed_tokens.weight"], tensors(wider)["model.embed_tokens.weight"]
    assert torch.equal(found[512:], rows[512:])


def test_the_merged_model_speaks_the_new_tokens(stories: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    wide = with_words(stories, tmp_path / "wide", FIRST)
    domain = trained(wide, tmp_path / "domain", 1)
    instruct = trained(stories, tmp_path / "instruct", 2, chat_template__jinja="{{ messages }}")
    out = merged(tmp_path / "out", stories, {instruct: 1.0, domain: 1.0})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (wide / name).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(wide))
    assert tokenizer.chat_template == "{{ messages }}"
