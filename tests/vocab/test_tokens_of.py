"""The tokens of a model that was extended separately: each is reached, or is left out because it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from kinds_material import KINDS, opened, texts
from safetensors.torch import load_file, save_file
from tiny import build
from vocab_material import documents

from surgeon.checkpoint.lineage import read_lineage
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute
from surgeon.verify import verify
from surgeon.vocab.learn import learn
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens_of import tokens_of

EMBEDDING = "model.embed_tokens.weight"


def extended(model: Path, out: Path, **settings: Any) -> Path:
    if isinstance(settings.get("tokens"), list):
        file = out.parent / f"{out.name}.txt"
        file.write_text("\n".join(settings["tokens"]) + "\n")
        settings["tokens"] = file
    execute(plan_extend_vocab(ExtendVocabSettings(model=str(model), out=out, **settings)), out)
    return out


@pytest.mark.material
@pytest.mark.parametrize("name", ["gpt2", "qwen2", "mistral-v1"])
def test_real_tokenizers_lose_no_token_of_either(material: Path, name: str) -> None:
    """Merges of a second text below those of the first: all tokens of both are reached, and what either of them makes
    of its own text is no longer than before."""
    file = TokenizerFile.open(material / "tokenizers" / name)
    medical, law = (documents(material, corpus, 60) for corpus in ("medical_en", "law_en"))
    one, other = (learn(file, found, 120) for found in (medical, law))
    first, second = (file.extended(x.tokens, x.merges) for x in (one, other))
    found = tokens_of(first, second, "law")
    assert found.left_out == ()
    assert found.tokens == tuple(token for token in other.tokens if token not in one.tokens)
    both = first.extended(found.tokens, found.merges)
    assert both.unreachable([*one.tokens, *found.tokens]) == []
    loaded = [x.load() for x in (first, second, both)]
    for text in law:
        before, after = loaded[1].encode(text), loaded[2].encode(text)
        assert loaded[2].decode(after.ids) == loaded[1].decode(before.ids)
        assert len(after.ids) <= len(loaded[0].encode(text).ids)


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_without_merges_take_pieces(kind: str, tmp_path: Path) -> None:
    file = opened(kind, tmp_path)
    one, other = (learn(file, texts(f"domain.{part}"), 60) for part in ("train", "valid"))
    first, second = (file.extended(x.tokens, x.merges) for x in (one, other))
    found = tokens_of(first, second, "other")
    assert found.tokens == tuple(token for token in other.tokens if token not in one.tokens)
    assert 0 < len(found.tokens) < 60 and not (found.merges or found.left_out)
    both = first.extended(found.tokens, found.merges)
    assert both.unreachable([*one.tokens, *found.tokens]) == []


def test_what_the_merges_here_take_apart_is_left_out_and_said(stories: Path, tmp_path: Path) -> None:
    """Where "serv" is joined, the merges of a model without it no longer make "ervice": each token that is left out is
    one that does not come out."""
    here = extended(stories, tmp_path / "here", tokens=[" serv", " publish"])
    there = extended(stories, tmp_path / "there", tokens=["ervice", " service", "lantern"])
    file, other = TokenizerFile.open(here), TokenizerFile.open(there)
    found = tokens_of(file, other, "there")
    assert "lantern" in found.tokens
    both = file.extended(found.tokens, found.merges)
    assert both.unreachable(list(found.tokens)) == []
    theirs = [t for t in other.vocab if t not in file.vocab]
    assert sorted([*found.tokens, *found.left_out]) == sorted(theirs)
    assert found.left_out
    for token in found.left_out:
        assert file.extended([*found.tokens, token], found.merges).unreachable([token])
    out = extended(here, tmp_path / "out", tokens_of=str(there))
    lineage = read_lineage(out)
    assert lineage is not None and lineage.rows is not None and lineage.rows.learning is not None
    assert lineage.rows.learning["left_out"] == list(found.left_out)
    assert lineage.rows.learning["tokens_of"]["name"] == "there"
    assert verify(out, function=True)["holds"]


def test_the_rows_are_those_of_the_model_that_the_tokens_are_of(stories: Path, tmp_path: Path) -> None:
    here = extended(stories, tmp_path / "here", tokens=["dragonfly", "windmill"])
    there = extended(stories, tmp_path / "there", tokens=["marmalade", "helicopter"])
    held = load_file(there / "model.safetensors")
    held[EMBEDDING] += torch.randn(held[EMBEDDING].shape, generator=torch.Generator().manual_seed(1))
    save_file(held, there / "model.safetensors", {"format": "pt"})
    out = extended(here, tmp_path / "out", tokens_of=str(there))
    before, found = (load_file(x / "model.safetensors")[EMBEDDING] for x in (here, out))
    ids, theirs = TokenizerFile.open(out).vocab, TokenizerFile.open(there).vocab
    new = [token for token, i in ids.items() if i >= len(before)]
    assert len(new) == len(found) - len(before) > 2
    assert torch.equal(found[: len(before)], before)
    for token in new:
        assert torch.equal(found[ids[token]], held[EMBEDDING][theirs[token]])
    plain = extended(here, tmp_path / "plain", tokens_of=str(there), init="subword_mean")
    assert (plain / "tokenizer.json").read_bytes() == (out / "tokenizer.json").read_bytes()
    assert not torch.equal(load_file(plain / "model.safetensors")[EMBEDDING], found)


def refused(model: Path, out: Path, match: str, **settings: Any) -> None:
    with pytest.raises(SurgeonError, match=match):
        plan_extend_vocab(ExtendVocabSettings(model=str(model), out=out, **settings))


def test_what_cannot_be_taken_over_is_refused(stories: Path, tmp_path: Path) -> None:
    there = extended(stories, tmp_path / "there", tokens=["marmalade"])
    refused(there, tmp_path / "x", "there has no token that could be added", tokens_of=str(there))
    other = shutil.copytree(there, tmp_path / "other")
    data = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    data["normalizer"] = {"type": "NFKC"}
    (other / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    refused(stories, tmp_path / "x", "the tokenizer of other has the normalizer", tokens_of=str(other))
    with pytest.raises(UsageError, match="one of --add, --tokens and --tokens-of is needed"):
        plan_extend_vocab(
            ExtendVocabSettings(
                model=str(stories), out=tmp_path / "x", tokens_of=str(there), tokens=tmp_path / "there.txt"
            )
        )
    with pytest.raises(UsageError, match="--script is for tokens that are learned"):
        plan_extend_vocab(
            ExtendVocabSettings(model=str(stories), out=tmp_path / "x", tokens_of=str(there), script="Latin")
        )


def test_a_donor_of_another_form_is_refused(stories: Path, tmp_path: Path) -> None:
    there = extended(stories, tmp_path / "there", tokens=["marmalade"])
    rows = len(load_file(there / "model.safetensors")[EMBEDDING])
    wide = tmp_path / "wide"
    build("llama", wide, vocab_size=rows, hidden_size=32, num_hidden_layers=1, tie_word_embeddings=True)
    shutil.copyfile(there / "tokenizer.json", wide / "tokenizer.json")
    refused(stories, tmp_path / "x", "the donor's rows have 32 columns, ours 64", tokens_of=str(wide))
    untied = tmp_path / "untied"
    build("llama", untied, vocab_size=rows, hidden_size=64, num_hidden_layers=1, tie_word_embeddings=False)
    shutil.copyfile(there / "tokenizer.json", untied / "tokenizer.json")
    refused(stories, tmp_path / "x", "the donor has a head of its own", tokens_of=str(untied))
    out = extended(stories, tmp_path / "out", tokens_of=str(untied), untie=True)
    found, held = (load_file(x / "model.safetensors") for x in (out, untied))
    ids, theirs = TokenizerFile.open(out).vocab, TokenizerFile.open(untied).vocab
    for token in (t for t, i in ids.items() if i >= 512):
        for name in (EMBEDDING, "lm_head.weight"):
            assert torch.equal(found[name][ids[token]], held[name][theirs[token]])
    refused(stories, tmp_path / "x", "the donor lacks .* such as", tokens=_file(tmp_path, "zeppelin"), init="adopt",
            option={"donor": str(there)})  # fmt: skip


def _file(folder: Path, word: str) -> Path:
    path = folder / "word.txt"
    path.write_text(f"{word}\n")
    return path
